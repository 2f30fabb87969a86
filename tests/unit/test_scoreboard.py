"""Shared memory: counters, totals, what is in flight."""

from __future__ import annotations

import os
from typing import Any

import pytest

from cluster.scoreboard import NOTES, NoRowLeft, Scoreboard


def test_totals_never_go_down_and_active_ones_do() -> None:
    """S1: what a dead worker counted stays in the totals, what it had active does not."""
    board = Scoreboard(4)
    row = board.take()
    counters = board.counters(row)
    counters[0], counters[1], counters[3] = 2, 7, 9
    assert board.sums([row])["connections_total"] == 7 and board.sums([row])["connections_active"] == 2
    board.serving[row] = 1
    assert board.active[row] == 2
    board.give_back(row)
    sums = board.sums([])
    assert (sums["connections_total"], sums["requests_total"], sums["connections_active"]) == (7, 9, 0)
    assert board.active[row] == board.serving[row] == 0
    before: dict[str, Any] = {"connections_total": 3, "nonsense": 5, "connections_active": 4, "bytes_sent": "x"}
    board.inherit(before)
    assert board.sums([])["connections_total"] == 10 and board.sums([])["connections_active"] == 0
    board.inherit({"connections_total": 2})
    board.inherit({"connections_total": 5})
    assert board.sums([])["connections_total"] == 12, "later totals of the old master replace earlier ones"


def test_rows_are_reused_lowest_first_and_run_out() -> None:
    """The used part stays as small as can be, as every accept sums it up."""
    board = Scoreboard(3)
    assert [board.take() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(NoRowLeft):
        board.take()
    board.give_back(2)
    board.give_back(0)
    assert board.take() == 0 and board.used == 3


def test_a_child_writes_and_its_parent_reads() -> None:
    """It is shared, not copied, by a fork."""
    board = Scoreboard(2)
    row = board.take()
    pid = os.fork()
    if pid == 0:
        board.counters(row)[3] = 42
        board.in_flight(row).begin(b"GET /stuck")
        os._exit(0)
    os.waitpid(pid, 0)
    assert board.read(row)["requests_total"] == 42
    assert [what for _, what in board.in_flight(row).read()] == ["GET /stuck"]


def test_in_flight_oldest_first_long_ones_cut_too_many_left_out() -> None:
    """A row holds so many notes of so many bytes."""
    board = Scoreboard(1)
    notes = board.in_flight(board.take())
    tokens = [notes.begin(b"%d" % number + b"x" * 500) for number in range(NOTES + 3)]
    found = notes.read()
    assert len(found) == NOTES and found[0][1].startswith("0x") and len(found[0][1]) < 128
    assert found == sorted(found)
    for token in tokens:
        notes.end(token)
    assert notes.read() == []


def test_what_is_in_flight_forges_no_lines() -> None:
    """What a client has put into its request (or a worker into the table) has no control characters for the reader."""
    board = Scoreboard(1)
    notes = board.in_flight(board.take())
    notes.begin(b"GET /slow\ncluster: all is lost\x1b[31m\x9b\x7f caf\xe9")
    assert notes.read()[0][1] == "GET /slow\\x0acluster: all is lost\\x1b[31m\\x9b\\x7f café"
