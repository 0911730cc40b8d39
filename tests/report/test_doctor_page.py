import re
from html import unescape

import pytest

from open_mythos.eval.doctor.findings import Finding
from open_mythos.eval.doctor.jacobian import Jacobian
from open_mythos.eval.doctor.measurements import Measurements, Starts
from open_mythos.eval.halting import LoopUse
from open_mythos.eval.loop_curve import LoopCurve, LoopPoint
from open_mythos.report.doctor_page import doctor_page


def measured(*, halts: bool, experts: int) -> Measurements:
    load = ((0.5, 0.5),) * 8 if experts else ((),) * 8
    by = tuple(t / 8 for t in range(1, 9))
    return Measurements(
        subject="held-out text",
        trained=2,
        loops=8,
        tied=False,
        varied=True,
        injection="lti",
        carry=0.5,
        jacobian=Jacobian((0.9,), 1.5, True),
        sizes=(*[1.0] * 7, float("inf")),
        residuals=(1.0, *[0.0] * 7),
        moved=0.1,
        period=1,
        starts=Starts(0.1, 0.9),
        halts=halts,
        use=LoopUse(8, 10, by, 4.5, (1.0,) * 8, load),
        experts=experts,
        per_token=1,
        curve=LoopCurve("t", tuple(LoopPoint(n, 2.0, 0.5, 10) for n in (1, 2, 4, 8))),
    )


FOUND = [
    Finding("drifting_state", "fault", "It grows <3> times.", "A norm."),
    Finding("idle_loops", "note", "Nothing.", "More."),
]


@pytest.mark.parametrize("halts", [True, False])
@pytest.mark.parametrize("experts", [2, 0])
def test_the_page_says_what_was_found_and_shows_what_was_measured(
    halts: bool, experts: int
) -> None:
    page = doctor_page("mine", measured(halts=halts, experts=experts), FOUND)
    text = unescape(re.sub(r"data:image[^\"]*|<[^>]*>", " ", page))
    assert "Faults: drifting_state." in text
    assert "It grows <3> times." in text
    assert text.index("drifting_state") < text.index("idle_loops")
    assert "0.9000" in text
    assert page.count("<img") == 4 + halts + bool(experts)
    assert ("Halting" in text) == halts
    assert ("Experts" in text) == bool(experts)


def test_a_sound_loop_is_called_so() -> None:
    page = doctor_page("mine", measured(halts=False, experts=2), [])
    assert "No fault was found." in page
