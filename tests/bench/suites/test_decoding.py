"""Decoding and prefill: who takes part, and the floor of this library's token."""

from dataclasses import replace

import pytest

from open_mythos.bench.floor import Ceilings, decode_bytes
from open_mythos.bench.ours import Ours
from open_mythos.bench.suite import Setting
from open_mythos.bench.suites.decoding import UNCOMPARED, decode, prefill


def test_tokens_are_timed_against_the_bytes_that_they_move(setting: Setting) -> None:
    setting = replace(setting, ceilings=Ceilings(flops=1e12, bandwidth=1e9))
    (row,) = decode(setting)[0].run()
    size = setting.size
    moved = decode_bytes(size.config(setting.attns[0]), 1, size.context, size.loops, 4)
    assert row.who == Ours.name
    assert row.figures["floor"].value == pytest.approx(sum(moved.values()) / 1e6)
    share = row.figures["floor"].value / row.figures["step"].value
    assert row.figures["share_of_floor"].value == pytest.approx(share)


@pytest.mark.parametrize("suite", [decode, prefill])
def test_this_library_comes_first_and_its_peer_after_it(setting: Setting, suite: object) -> None:
    rows = [found for case in suite(setting) for found in case.run()]  # type: ignore[operator]
    names = [row.who for row in rows]
    assert names == [Ours.name] + ["open-mythos 0.5.0"] * (setting.peer is not None)
    assert all(row.figures["tokens_per_second"].value > 0 for row in rows)


def test_a_compiled_peer_does_not_decode(setting: Setting) -> None:
    setting = replace(setting, hugging_face=True, compile=True)
    names = {case.who for case in [*decode(setting), *prefill(setting)]}
    assert not names & set(UNCOMPARED)
    assert any(name.startswith("HF ") for name in names)
