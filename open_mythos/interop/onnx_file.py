"""An ONNX file of a forward pass with its loops fixed, checked by another runtime."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from open_mythos.errors import InputError, MissingExtraError
from open_mythos.interop.graph import Checked, checked, record
from open_mythos.model.mythos import OpenMythos


def export_onnx(model: OpenMythos, path: str | Path, n_loops: int | None = None) -> Checked:
    """Write a pass of `n_loops` loops to an ONNX file, run it with onnxruntime and compare.

    Its input `ids` is (batch, sequence) int64, its output `logits` (batch, sequence, vocab); both
    axes are dynamic, and there is no cache.

    Args:
        model: On a CPU, in float32: onnxruntime's CPU kernels have no other type throughout.
        path: The file; weights beyond 2 GB go to a second one beside it.
        n_loops: Loops of every pass; None is the config's max_loop_iters.

    Raises:
        MissingExtraError: Without onnx, onnxscript or onnxruntime.
        InputError: If the pass cannot be recorded or converted, or computes something else there.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingExtraError("onnxscript", "onnx", "an ONNX file")
    dtype = model.embed.weight.dtype
    if dtype != torch.float32:
        raise InputError(f"the model is {dtype}; ONNX files are float32: export model.float()")
    program = record(model, n_loops)
    with _quietly():
        try:
            made: Any = torch.onnx.export(
                _needed_alone(program),
                input_names=["ids"],
                output_names=["logits"],
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            said = str(error.__cause__ or error).strip().splitlines()[0]
            raise InputError(f"torch.onnx cannot convert this network: {said}") from error
        made.save(str(path))
    return checked(model, n_loops, Session(path), str(path))


def _needed_alone(program: ExportedProgram) -> ExportedProgram:
    """The same graph without what nobody reads.

    A mixture counts its tokens by sorting them, which only training asks for, and ONNX has no
    stable sort. Assertions about dtypes that torch records on the way hold such things in place.
    """
    plain: ExportedProgram = program.run_decompositions({})
    graph = plain.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    plain.graph_module.recompile()
    return plain


class Session:
    """An ONNX file that onnxruntime runs on a CPU: ids in, logits out."""

    def __init__(self, path: str | Path) -> None:
        """Open the file `path`."""
        runtime: Any = import_module("onnxruntime")
        self._session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def __call__(self, ids: Tensor) -> Tensor:
        """(B, S) int64 -> (B, S, vocab)."""
        (logits,) = self._session.run(None, {"ids": ids.numpy()})
        return torch.from_numpy(logits)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the converter says of itself: deprecations, and that torchvision is absent."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
