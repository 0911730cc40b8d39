import io

import pytest
from rich.console import Console

from open_mythos.suite.board import ConsoleBoard
from open_mythos.suite.plan import Plan


@pytest.mark.parametrize("terminal", [False, True])
def test_ends_are_lines_and_steps_of_all_cells_add_up(plan: Plan, terminal: bool) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100)
    with ConsoleBoard(plan, console) as board:
        for one in plan.cells[:2]:
            board.start(one)
        first, second = plan.cells[:2]
        board.step(first, 1)
        board.step(second, 1)
        board.step(first, 2)
        bars = {task.description: (task.completed, task.total) for task in board.progress.tasks}
        assert bars == {
            "all steps": (3, 2 * len(plan.cells)),
            first.name: (2, 2),
            second.name: (1, 2),
        }
        board.end(first, "finished", "")
        board.end(second, "failed", "out of memory")
        assert [task.description for task in board.progress.tasks] == ["all steps"]
    assert "1/8  free mythos seed 0  finished at step 2" in text.getvalue()
    assert "2/8  free mythos seed 1  failed: out of memory" in text.getvalue()
