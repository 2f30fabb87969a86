"""Measuring kinds of servers in turns, as a command."""

from __future__ import annotations

import argparse
import compileall
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cluster
from benchmarks.servers import Kind, interruptible


def parser(module: str, description: str, rounds: int) -> argparse.ArgumentParser:
    """The options that all of these commands have.

    :param rounds: how many there are by default.
    """
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=description)
    made.add_argument("--rounds", type=int, default=rounds, metavar="N")
    return made


def measure(
    kinds: Sequence[Kind], rounds: int, take: Callable[[Kind], str], table: Callable[[], tuple[str, bool]]
) -> int:
    """Measures each kind once a round and prints the table.

    :param take: measures a kind once, keeps the figures, and returns what to tell of them on stderr.
    :param table: makes the table, and tells whether it shows what it should.
    :returns: the exit code: 0 when it does, 1 when not, 2 when nothing could be measured, 130 when interrupted.
    """
    # pip compiles what it installs; a changed checkout would be compiled at each start where bytecode is not written
    compileall.compile_dir(str(Path(cluster.__file__).parent), quiet=1)
    try:
        with interruptible():
            for number in range(rounds):
                # Whoever comes second may find warmer caches, so they take turns at that too.
                for kind in kinds if number % 2 == 0 else kinds[::-1]:
                    told = take(kind)
                    print(f"round {number + 1}/{rounds}  {kind.name:<9} {told}".rstrip(), file=sys.stderr)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    text, good = table()
    print(text)
    return 0 if good else 1
