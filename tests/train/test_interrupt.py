import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from open_mythos.train.interrupt import SIGNALS, StopRequest


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """A shell that starts tests in the background has SIGINT ignored; here Ctrl-C is Ctrl-C."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_the_earlier_handler_is_back(number: signal.Signals) -> None:
    before = {n: signal.getsignal(n) for n in SIGNALS}
    with StopRequest() as stop:
        assert stop.name is None
        os.kill(os.getpid(), number)
        assert stop.name == number.name
        assert {n: signal.getsignal(n) for n in SIGNALS} == before
    assert {n: signal.getsignal(n) for n in SIGNALS} == before


def test_a_second_ctrl_c_interrupts() -> None:
    stop = StopRequest()

    def twice() -> None:
        with stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.name == "SIGINT"
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        twice()


def test_a_second_termination_kills() -> None:
    code = (
        "import os, signal\n"
        "from open_mythos.train.interrupt import StopRequest\n"
        "with StopRequest() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(stop.name, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('alive', flush=True)\n"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.returncode) == (["SIGTERM"], -signal.SIGTERM)


def test_handlers_come_back_without_a_signal_and_after_an_error() -> None:
    before = {n: signal.getsignal(n) for n in SIGNALS}

    def fail() -> None:
        with StopRequest():
            assert signal.getsignal(signal.SIGINT) != before[signal.SIGINT]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert {n: signal.getsignal(n) for n in SIGNALS} == before


def test_outside_the_main_thread_nothing_is_touched() -> None:
    before = signal.getsignal(signal.SIGINT)

    def inside() -> object:
        with StopRequest():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(inside).result() == before
