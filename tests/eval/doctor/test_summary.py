from collections.abc import Callable

from open_mythos.eval.doctor.findings import Finding
from open_mythos.eval.doctor.measurements import Measurements
from open_mythos.eval.doctor.summary import SOUND, numbers, verdict


def test_the_verdict_names_faults_then_warnings() -> None:
    found = [Finding("a", "fault", "", ""), Finding("b", "warning", "", ""),
             Finding("c", "note", "", ""), Finding("d", "fault", "", "")]  # fmt: skip
    assert verdict(found) == "Faults: a, d. Warnings: b."
    assert verdict(found[1:2]) == f"{SOUND} Warnings: b."
    assert verdict(found[2:3]) == verdict([]) == SOUND


def test_every_number_has_a_name(sound: Measurements, changed: Callable[..., Measurements]) -> None:
    shown = dict(numbers(sound))
    assert len(shown) == len(numbers(sound))
    assert shown["rho(A) of its linear carry"] == "0.0100"
    assert shown["radius of the loop's Jacobian (eigenvalues)"] == "0.7000"
    assert shown["state size at the trained depth, at the end"] == "1.1, 1.15"
    assert shown["the state repeats"] == "no"
    assert shown["loss against loops"] == "1: 2.200, 2: 2.000, 4: 1.990, 8: 1.990 (plateau)"
    bare = dict(numbers(changed(carry=None, jacobian=None, period=3, tied=True)))
    assert bare["rho(A) of its linear carry"] == "none"
    assert bare["the state repeats"] == "after 3 loops"
    assert "harder" in bare["loss against loops"]
    assert len(bare) == len(shown) - 2
