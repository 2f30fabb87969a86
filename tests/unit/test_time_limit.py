"""No test runs for ever, and none fails for where it was started from."""

from __future__ import annotations

import configparser
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def _ignore() -> None:
    """As nohup(1) and a shell's background job do."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def test_a_test_without_end_is_ended_and_programs_heed_signals() -> None:
    """Fault: with SIGINT ignored a test that presses Ctrl-C never ended."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "timeout=0.5",
         "--tb=line", str(HERE / "without_end.py")],
        cwd=HERE.parent.parent, capture_output=True, text=True, timeout=60, preexec_fn=_ignore, check=False)
    assert done.stdout.count("Timeout (>0.5s)") >= 3 and "3 failed, 1 passed" in done.stdout, done.stdout


def test_there_is_a_time_limit() -> None:
    """In the settings that every run takes."""
    settings = configparser.ConfigParser()
    settings.read(HERE.parent.parent / "setup.cfg")
    assert 0 < settings["tool:pytest"].getint("timeout") <= 300
