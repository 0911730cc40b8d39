"""Export: a folder that loads anywhere, with the code of this very library laid flat beside it.

transformers copies the Python files that a model brings into one folder and follows their relative
imports, but no sub-packages. So the modules that the network needs are written side by side, each
named after its path, and their imports rewritten; nothing is implemented twice.
"""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from open_mythos import __version__
from open_mythos.data.tokenizer import Tokenizer
from open_mythos.errors import InputError
from open_mythos.hf.card import Story
from open_mythos.hf.modeling import OpenMythosForCausalLM
from open_mythos.hf.tokenizer import fast_tokenizer
from open_mythos.model.mythos import OpenMythos


PACKAGE = "open_mythos"
TOP = f"{PACKAGE}.hf.modeling"
NAMED = {TOP: "modeling_open_mythos", f"{PACKAGE}.hf.config": "configuration_open_mythos"}
AUTO_MAP = {
    "AutoConfig": f"{NAMED[f'{PACKAGE}.hf.config']}.OpenMythosConfig",
    "AutoModelForCausalLM": f"{NAMED[TOP]}.OpenMythosForCausalLM",
}
# Kernels need triton and stay behind: every op has a plain definition.
LEFT_OUT = f"{PACKAGE}.kernels"
WITHOUT = "raise ImportError('kernels are not part of an export; install open-mythos')"
SWITCHES = {
    f"{PACKAGE}.ops.backend": (
        'HAS_TRITON = find_spec("triton") is not None',
        "HAS_TRITON = False  # kernels are not part of an export",
    )
}
Edit = tuple[int, int, str]  # from and to, in characters of a source, and what goes there


def export_model(
    network: OpenMythos,
    folder: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    story: Story | None = None,
    num_loops: int | None = None,
    code: bool = True,
) -> Path:
    """A folder for transformers, pipelines and the hub: weights, config, card, tokenizer, code.

    Args:
        network: The trained network; it stays as it is.
        folder: Where to; a card that is there stays.
        tokenizer: Its tokenizer, of any kind; None leaves none.
        story: What the card says beyond the config.
        num_loops: Loops that a pass runs unless told otherwise; None is max_loop_iters.
        code: Whether Python files go with it, so that it loads without this library.

    Raises:
        InputError: If the path is a file, or the tokenizer has no form that transformers reads.
    """
    root = Path(folder)
    if root.is_file():
        raise InputError(f"{root} is a file; give a folder")
    model = OpenMythosForCausalLM.of(network, num_loops=num_loops)
    model.story = story or Story(name=root.name)
    if tokenizer is not None:
        fast = fast_tokenizer(tokenizer, network.cfg.max_seq_len)
        fast.save_pretrained(root)
        model.generation_config.eos_token_id = fast.eos_token_id
        model.generation_config.pad_token_id = fast.pad_token_id
    if code:
        model.config.auto_map = write_code(root)
    model.save_pretrained(root)
    return root


def write_code(folder: str | Path) -> dict[str, str]:
    """Write the Python files of the network into a folder.

    Returns:
        The config's auto_map: which class in which file answers to which auto class.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    for name, text in remote_sources().items():
        (root / name).write_text(text, encoding="utf-8")
    return dict(AUTO_MAP)


@cache
def remote_sources() -> dict[str, str]:
    """File name -> text, of every module that the network needs."""
    header = (
        f"# From {PACKAGE} {_release()} (MIT licence), laid flat by its export: do not edit here.\n"
    )
    found: dict[str, str] = {}
    for module, path in sorted(_needed(TOP).items()):
        text = path.read_text(encoding="utf-8")
        if module in SWITCHES:
            before, after = SWITCHES[module]
            assert text.count(before) == 1, module
            text = text.replace(before, after)
        name = f"{flat(module)}.py"
        assert name not in found, name
        found[name] = header + _rewritten(text)
    return found


def flat(module: str) -> str:
    """The name under which a module of this library lies in an export."""
    inner = module.removeprefix(f"{PACKAGE}.").replace(".", "_")
    return NAMED.get(module, inner)


def _needed(top: str) -> dict[str, Path]:
    """Module -> file, of `top` and of what it imports of this library, kernels apart."""
    found: dict[str, Path] = {}
    waiting = [top]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found[module] = _file(module)
        tree = ast.parse(found[module].read_text(encoding="utf-8"))
        for node in _imports(tree):
            if not _of_kernels(node):
                waiting += [_file_of_name(node, alias.name)[0] for alias in node.names]
    return found


def _imports(tree: ast.AST) -> Iterator[ast.ImportFrom]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            yield node


def _of_kernels(node: ast.ImportFrom) -> bool:
    return f"{node.module}.".startswith(f"{LEFT_OUT}.")


def _file_of_name(node: ast.ImportFrom, name: str) -> tuple[str, bool]:
    """The module that `from x import name` reads, and whether `name` is that module itself."""
    inner = f"{node.module}.{name}"
    if _file(str(node.module)).name == "__init__.py" and find_spec(inner) is not None:
        return inner, True
    return str(node.module), False


def _file(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def _rewritten(text: str) -> str:
    """The text with imports between files of one folder, and its custom ops under its own name."""
    tree = ast.parse(text)
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    edits: list[Edit] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and str(node.value).startswith(f"{PACKAGE}::"):
            # Two exports in one process, or one beside the library, must not share an op's name.
            inner = str(node.value).removeprefix(PACKAGE)
            edits.append((*_span(node, starts), f'__name__.replace(".", "_") + "{inner}"'))
    edits += [(*_span(node, starts), _import(node)) for node in _imports(tree)]
    raw = text.encode()
    for begin, end, new in sorted(edits, reverse=True):
        raw = raw[:begin] + new.encode() + raw[end:]
    return raw.decode()


def _span(node: ast.expr | ast.stmt, starts: list[int]) -> tuple[int, int]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    begin = starts[node.lineno - 1] + node.col_offset
    return begin, starts[node.end_lineno - 1] + node.end_col_offset


def _import(node: ast.ImportFrom) -> str:
    if _of_kernels(node):
        return WITHOUT
    lines: list[str] = []
    for alias in node.names:
        module, whole = _file_of_name(node, alias.name)
        said = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
        if whole:  # transformers follows `from .x import y` alone, so that one stands before it
            name = alias.asname or alias.name
            lines += [
                f"from .{flat(module)} import __name__ as _{name}",
                f"from . import {flat(module)} as {name}",
            ]
        else:
            lines.append(f"from .{flat(module)} import {said}")
    return ("\n" + " " * node.col_offset).join(lines)


def _release() -> str:
    try:
        return version("open-mythos")
    except PackageNotFoundError:  # a checkout that nobody installed
        return __version__
