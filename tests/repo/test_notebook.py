"""The notebook: its cells parse and their imports exist; and, slowly, all of it runs."""

import ast
import importlib
from pathlib import Path

import pytest


nbformat = pytest.importorskip("nbformat")
ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "notebooks" / "looping.ipynb"
READ = nbformat.read(PATH, as_version=4)
CODE = [cell for cell in READ.cells if cell.cell_type == "code"]


def test_it_is_a_valid_notebook_with_small_outputs_and_no_fault() -> None:
    nbformat.validate(READ)
    assert PATH.stat().st_size < 120_000
    outputs = [output for cell in CODE for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert all(cell.execution_count == number for number, cell in enumerate(CODE, 1))


def test_its_cells_parse_and_what_they_import_is_there() -> None:
    pytest.importorskip("matplotlib")
    imported = 0
    for cell in CODE:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names)
                imported += 1
    assert imported > 5


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_runs_and_shows_depth() -> None:
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    fresh = nbformat.read(PATH, as_version=4)
    client.NotebookClient(
        fresh, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    said = "".join(
        output.text for cell in fresh.cells if cell.cell_type == "code"
        for output in cell.outputs if output.output_type == "stream"
    )  # fmt: skip
    diagonal = ast.literal_eval(said.partition("on the diagonal: ")[2].partition("\n")[0])
    assert diagonal[16] > 0.8  # trained on 6 at most
