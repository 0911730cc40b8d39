from dataclasses import replace

from open_mythos.demo.measure import TaskResult
from open_mythos.demo.story import solved_hops
from open_mythos.eval.loop_curve import DepthMap


def result(*deeper: tuple[int, float]) -> TaskResult:
    return TaskResult(0.1, deeper, deeper, DepthMap("x", (1,), (1,), ((1.0,),), 1), {})


def test_hops_count_as_solved_up_to_the_first_miss() -> None:
    assert solved_hops(result((1, 0.99), (2, 0.96), (4, 0.95), (8, 0.94), (16, 0.99))) == 4
    assert solved_hops(result((1, 0.5), (2, 1.0))) == 0
    assert solved_hops(replace(result((1, 1.0), (64, 1.0)))) == 64
