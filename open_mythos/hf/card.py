"""Model card: what a network is and costs, in words and numbers that follow from its config."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from open_mythos.config.budget import cache_bytes_per_token, flops_per_token, parameters
from open_mythos.config.mythos import MythosConfig


@dataclass(frozen=True)
class Story:
    """What a card can say that no config knows; every part may be left out.

    Attributes:
        name: What the model is called.
        data: What it was trained on.
        licence: Of the weights, by its identifier.
        scores: By task, then by loops: a number.
        notes: More to say, as Markdown.
    """

    name: str = "OpenMythos"
    data: str = ""
    licence: str = ""
    scores: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    notes: str = ""


def parameters_as_run(cfg: MythosConfig, n_loops: int) -> int:
    """Parameters that a token meets in `n_loops` loops, the core's counted once per loop."""
    count = parameters(cfg)
    return count.active + (n_loops - 1) * (count.looped - count.inactive)


def model_card(cfg: MythosConfig, story: Story | None = None, n_loops: int | None = None) -> str:
    """The text of a README.md, with the header that the hub reads.

    Args:
        cfg: The network.
        story: What the config does not say.
        n_loops: Loops that a pass runs unless told otherwise; None is max_loop_iters.
    """
    story = story or Story()
    default = n_loops or cfg.max_loop_iters
    depths = sorted({1, *(2**k for k in range(1, 12) if 2**k < default), default})
    core = f"{cfg.core_layers} layer{'s' * (cfg.core_layers != 1)}"
    ffn = "dense" if cfg.core_ffn == "dense" else f"{cfg.n_experts} experts"
    parts = [
        _header(story),
        f"# {story.name}",
        "A recurrent-depth language model of open-mythos: a prelude of "
        f"{cfg.prelude_layers}, a core of {core} ({ffn}, {cfg.attn_type.upper()} attention) that "
        f"runs again and again, a coda of {cfg.coda_layers}. It runs {default} loops unless told "
        "otherwise; `num_loops` asks for fewer or more, `exit` lets positions leave early.",
        "## Use",
        _snippet(),
        "## Size",
        f"{parameters(cfg).total:,} parameters, {parameters(cfg).active:,} of which one token "
        f"meets in one loop. Context: {cfg.max_seq_len:,} positions; vocabulary: "
        f"{cfg.vocab_size:,}.",
        _costs(cfg, depths),
        "## Training data",
        story.data or "Not said by whoever made this card.",
        "## Evaluation",
        _scores(story.scores) if story.scores else "Not measured, or not said here.",
        story.notes,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(story: Story) -> str:
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if story.licence:
        lines.append(f"license: {story.licence}")
    return "\n".join(["---", *lines, "tags:", "- open_mythos", "- recurrent-depth", "---"])


def _snippet() -> str:
    return (
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'name, code = "THIS/REPO", {"trust_remote_code": True}\n'
        "tokenizer = AutoTokenizer.from_pretrained(name, **code)\n"
        "model = AutoModelForCausalLM.from_pretrained(name, **code)\n"
        'inputs = tokenizer("Once", return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**inputs, num_loops=4)[0]))\n"
        "```\n\n"
        "`trust_remote_code` runs the Python files in this folder; with open-mythos installed, "
        "`import open_mythos.hf.auto` does without."
    )


def _costs(cfg: MythosConfig, depths: list[int]) -> str:
    head = "| loops | parameters as run | GFLOPs per token | cache bytes per token (16 bit) |"
    rows = [
        f"| {r} | {parameters_as_run(cfg, r):,} | {flops_per_token(cfg, r).total / 1e9:.3g} | "
        f"{cache_bytes_per_token(cfg, r):,} |"
        for r in depths
    ]
    return "\n".join([head, "|---:|---:|---:|---:|", *rows])


def _scores(scores: Mapping[str, Mapping[int, float]]) -> str:
    depths = sorted({r for by_loops in scores.values() for r in by_loops})
    head = f"| | {' | '.join(f'{r} loops' for r in depths)} |"
    rows = [
        f"| {task} | {' | '.join(f'{of[r]:.4g}' if r in of else '' for r in depths)} |"
        for task, of in scores.items()
    ]
    return "\n".join([head, "|---" * (len(depths) + 1) + "|", *rows])
