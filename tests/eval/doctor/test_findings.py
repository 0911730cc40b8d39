import math
from collections.abc import Callable
from typing import Any

import pytest

from open_mythos.eval.doctor import findings as doctor
from open_mythos.eval.doctor.findings import (
    CHECKS,
    SEVERITIES,
    Finding,
    diagnose,
    sound as is_sound,
)
from open_mythos.eval.doctor.jacobian import Jacobian
from open_mythos.eval.doctor.measurements import Measurements, Starts


Changed = Callable[..., Measurements]
NUMBER = r"\d"


def severity(finding: Finding | None) -> str | None:
    return None if finding is None else finding.severity


def test_a_sound_loop_has_no_findings(sound: Measurements) -> None:
    assert diagnose(sound) == ()
    assert is_sound(())


@pytest.mark.parametrize(
    ("check", "changes", "expected"),
    [
        # One side of each threshold, then the other.
        ("unstable_injection", {"carry": None}, None),
        ("unstable_injection", {"carry": 0.899}, None),
        ("unstable_injection", {"carry": 0.901}, "warning"),
        ("unstable_injection", {"carry": 0.999}, "warning"),  # nothing grows
        ("unstable_injection", {"carry": 0.989, "sizes": (1, 1, 2, 2, 2, 2, 2, 1.6)}, "warning"),
        ("unstable_injection", {"carry": 0.991, "sizes": (1, 1, 2, 2, 2, 2, 2, 1.6)}, "fault"),
        ("unstable_injection", {"carry": 0.991, "sizes": (1, 1, 2, 2, 2, 2, 2, 1.4)}, "warning"),
        ("unstable_injection", {"carry": 1.5, "sizes": (1, 2, 4, 8, 16, 32, 64, 128)}, "fault"),
        ("drifting_state", {"sizes": (1, 1, 1, 1, 1, 1, 1, 1.19)}, None),
        ("drifting_state", {"sizes": (1, 1, 1, 1, 1, 1, 1, 1.21)}, "warning"),
        ("drifting_state", {"sizes": (1, 1, 1, 1, 1, 1, 1, 1.51)}, "fault"),
        ("drifting_state", {"sizes": (1, 9, 9, 9, 9, 9, 9, 1)}, None),  # it shrinks
        ("drifting_state", {"sizes": (1, 1, 1, 1, 1, 1, 1, math.inf)}, "fault"),
        ("not_finite", {"sizes": (1, 1, 1, 1, 1, 1, 1, math.inf)}, "fault"),
        ("not_finite", {"sizes": (1, 1, math.nan, 1, 1, 1, 1, 1)}, "fault"),
        ("cycling_state", {"period": 1}, None),
        ("cycling_state", {"period": 2}, "note"),
        ("expanding_loop", {"jacobian": None}, None),
        ("expanding_loop", {"jacobian": Jacobian((0.2, 0.999), 3.0, True)}, None),
        ("expanding_loop", {"jacobian": Jacobian((1.001, 0.2), 3.0, True)}, "note"),
        ("start_matters", {"starts": Starts(2.0, 0.951)}, None),
        ("start_matters", {"starts": Starts(0.0, 0.949)}, "note"),
    ],
)
def test_a_finding_begins_at_its_threshold(
    changed: Changed, check: str, changes: dict[str, Any], expected: str | None
) -> None:
    finding = getattr(doctor, check)(changed(**changes))
    assert severity(finding) == expected
    if finding is not None:
        assert finding.kind == check
        assert any(letter.isdigit() for letter in finding.says)
        assert finding.helps.endswith(".")


@pytest.mark.parametrize(
    ("losses", "expected", "word"),
    [
        ((2.2, 2.0, 2.0, 2.049), None, ""),
        ((2.2, 2.0, 2.0, 2.051), "warning", "a V"),
        ((2.0, 2.0, 2.051, 2.0), "warning", "a collapse"),
        ((2.2, 2.0, 2.099, 2.0), "warning", "a V"),
        ((2.2, 2.0, 2.101, 2.0), "fault", "a V"),
        ((1.9, 2.0, 2.0, 3.0), "fault", "a collapse"),
        ((2.2, 2.0, 2.0, math.nan), "fault", "a V"),
    ],
)
def test_what_deeper_passes_lose_is_judged_on_the_same_targets(
    changed: Changed,
    loss_curve: Callable[..., Any],
    losses: tuple[float, ...],
    expected: str | None,
    word: str,
) -> None:
    finding = doctor.fixed_depth(changed(curve=loss_curve(*losses), varied=False))
    assert severity(finding) == expected
    if finding is not None:
        assert word in finding.says
        assert "never drew another depth" in finding.says
    # Where questions grow harder with the loops, nothing is lost by their being harder.
    assert doctor.fixed_depth(changed(curve=loss_curve(*losses), tied=True)) is None
    unknown = doctor.fixed_depth(changed(curve=loss_curve(*losses), varied=None))
    assert unknown is None or "never drew" not in unknown.says


def share_of_two(share: float) -> tuple[float, ...]:
    return (share / 2, share / 2, (1 - share) / 2, (1 - share) / 2)


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ((0.25, 0.25, 0.25, 0.25), None),
        (share_of_two(0.78), None),  # spread 0.69
        (share_of_two(0.88), "warning"),  # 0.44
        (share_of_two(0.96), "fault"),  # 0.18
        ((0.5, 0.5, 0.0, 0.0), "fault"),
        ((0.0, 0.5, 0.0, 0.5), "fault"),
    ],
)
def test_a_router_is_judged_by_what_a_token_could_visit(
    changed: Changed, loop_usage: Callable[..., Any], load: Any, expected: str | None
) -> None:
    assert severity(doctor.collapsed_router(changed(use=loop_usage(load)))) == expected
    # A dense core, and one in which every token visits all, have nothing to judge.
    dense = changed(use=loop_usage((), expert_load=((),) * 8), experts=0)
    assert doctor.collapsed_router(dense) is None
    assert doctor.idle_experts(dense) is None
    assert doctor.collapsed_router(changed(use=loop_usage(load), per_token=4)) is None


def test_a_router_that_collapses_in_one_loop_alone_is_a_warning(
    changed: Changed, loop_usage: Callable[..., Any]
) -> None:
    even, few = (0.25,) * 4, (0.5, 0.5, 0.0, 0.0)
    late = loop_usage(expert_load=(even, few, *[even] * 6))
    finding = doctor.collapsed_router(changed(use=late))
    assert severity(finding) == "warning"
    assert finding is not None
    assert "loop 2" in finding.says
    # Nobody is there any more in the last loops, where the halted are frozen.
    gone = loop_usage(expert_load=(*[even] * 7, few), halted_by=(0.9, *[1.0] * 7))
    assert doctor.collapsed_router(changed(use=gone)) is None
    # Loops that take turns with the experts share the work well.
    turns = (few, few[::-1]) * 4
    finding = doctor.collapsed_router(changed(use=loop_usage(expert_load=turns)))
    assert severity(finding) == "warning"


def test_an_expert_is_idle_if_chance_cannot_be_why(
    changed: Changed, loop_usage: Callable[..., Any]
) -> None:
    load = (0.4, 0.3, 0.3, 0.0)
    assert severity(doctor.idle_experts(changed(use=loop_usage(load)))) == "warning"
    few = loop_usage(load, n=7)  # 7 positions, 2 picks each, 8 loops: 28 for each of 4 experts
    assert doctor.idle_experts(changed(use=few)) is None
    assert doctor.idle_experts(changed(use=loop_usage(load, n=8))) is not None


@pytest.mark.parametrize(
    ("changes", "dead", "uniform"),
    [
        ({"mean_loops": 1.04, "halted_by": (0.96, *[1.0] * 7)}, "at once", None),
        ({"mean_loops": 1.06, "halted_by": (0.94, *[1.0] * 7)}, None, None),
        ({"mean_loops": 7.99, "halted_by": (*[0.0] * 6, 0.009, 1.0)}, "never", None),
        ({"mean_loops": 7.98, "halted_by": (*[0.0] * 6, 0.011, 1.0)}, None, None),
        ({"mean_loops": 3.0, "halted_by": (0.0, 0.005, *[1.0] * 6)}, None, "loop 3"),
        ({"mean_loops": 3.0, "halted_by": (0.0, 0.011, *[1.0] * 6)}, None, None),
    ],
)
def test_halting_is_dead_at_both_ends(
    changed: Changed,
    loop_usage: Callable[..., Any],
    changes: dict[str, Any],
    dead: str | None,
    uniform: str | None,
) -> None:
    m = changed(use=loop_usage(**changes))
    for check, word in ((doctor.dead_halting, dead), (doctor.uniform_halting, uniform)):
        finding = check(m)
        assert (finding is None) == (word is None)
        assert finding is None or word in finding.says  # type: ignore[operator]
    quiet = changed(use=loop_usage(**changes), halts=False)
    assert doctor.dead_halting(quiet) is doctor.uniform_halting(quiet) is None


def test_loops_that_buy_nothing_are_noted(changed: Changed, loss_curve: Callable[..., Any]) -> None:
    idle = loss_curve(2.0, 1.996, 1.996, 1.996)
    assert severity(doctor.idle_loops(changed(curve=idle))) == "note"
    assert doctor.idle_loops(changed(curve=loss_curve(2.0, 1.994, 2.0, 2.0))) is None
    assert doctor.idle_loops(changed(curve=idle, tied=True)) is None


def test_faults_come_first_and_causes_before_what_follows(
    changed: Changed, loss_curve: Callable[..., Any]
) -> None:
    found = diagnose(
        changed(
            carry=0.9999,
            sizes=tuple(float(t) for t in range(1, 9)),
            period=3,
            starts=Starts(1.0, 0.5),
            curve=loss_curve(3.0, 2.0, 4.0, 8.0),
            jacobian=Jacobian((1.2,), 2.0, True),
        )
    )
    kinds = [finding.kind for finding in found]
    assert kinds[:3] == ["unstable_injection", "drifting_state", "fixed_depth"]
    assert set(kinds[3:]) == {"cycling_state", "expanding_loop", "start_matters"}
    ranks = [SEVERITIES.index(finding.severity) for finding in found]
    assert ranks == sorted(ranks)
    assert not is_sound(found)
    assert is_sound(found[3:])


def test_the_page_has_a_line_for_every_kind(pytestconfig: pytest.Config) -> None:
    page = (pytestconfig.rootpath / "docs" / "doctor.md").read_text(encoding="utf-8")
    for check in CHECKS:
        assert f"| `{check.__name__}` |" in page
