"""Tests that never end, and one that looks at what programs inherit; run by `test_time_limit`, not by themselves."""

from __future__ import annotations

import subprocess
import sys

import gevent.event


def test_that_computes() -> None:
    """In Python code."""
    while True:
        pass


def test_that_waits_for_a_program() -> None:
    """In the kernel."""
    subprocess.run(["sleep", "600"])


def test_that_waits_in_gevents_loop() -> None:
    """In the loop, where an exception belongs to nobody."""
    gevent.event.Event().wait(600)


def test_that_programs_heed_signals() -> None:
    """Whatever is ignored here."""
    look = "import signal; print([signal.getsignal(n) is signal.SIG_IGN for n in (1, 2, 3)])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "[False, False, False]\n"
