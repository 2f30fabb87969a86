"""debug(): tells on stderr, in colour, what happens to the cluster."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import colorlog

from .. import narration, output
from ._telling import rarely, teller

if TYPE_CHECKING:
    from ..master import Master

_COLORS = {"DEBUG": "thin", "INFO": "cyan", "WARNING": "yellow", "ERROR": "red"}


def debug(colors: bool | None = None) -> Callable[[Master], None]:
    """The plugin. *colors*: True or False; None: when stderr is a terminal and ``NO_COLOR`` is not set."""

    def plugin(master: Master) -> None:
        master.narrated = True
        _narrate(master, _log(_wants_color() if colors is None else colors))

    return plugin


def _wants_color() -> bool:
    try:
        return sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    except (AttributeError, ValueError):
        return False


def _log(colors: bool) -> logging.Logger:
    handler = logging.StreamHandler(output.Saying())
    handler.setFormatter(colorlog.ColoredFormatter(
        "  %(log_color)s%(lower)s%(reset)s - %(message)s", log_colors=_COLORS, no_color=not colors, force_color=colors))
    handler.addFilter(_lower_case)
    log = logging.Logger("cluster.debug", logging.INFO)
    log.addHandler(handler)
    return log


def _lower_case(record: logging.LogRecord) -> bool:
    record.lower = record.levelname.lower()
    return True


def _narrate(master: Master, log: logging.Logger) -> None:
    tell = teller(master)

    def listening() -> None:
        for address in master.addresses:
            log.info("listening for connections on %s", address)

    tell("start", log.info, lambda: f"master started (pid {os.getpid()})")
    tell("worker", log.info, rarely(lambda worker: f"worker {worker.id} spawned (pid {worker.pid})"))
    master.on("listening", listening)
    tell("worker connected", log.info, rarely(lambda worker: f"worker {worker.id} connected"))
    tell("worker ready", log.info, lambda worker: f"worker {worker.id} ready after {worker.boot_time * 1000:.0f} ms")
    tell("ready", log.info, lambda: "all workers ready")
    tell("worker removed", log.info, lambda worker: f"worker {worker.id} removed (pid {worker.pid})")
    tell("worker killed", log.warning, narration.died_rarely)
    tell("worker waiting", log.warning, narration.waiting_rarely)
    tell("worker timeout", log.warning, narration.overdue)
    tell("worker exception", log.error, rarely(narration.uncaught))
    tell("kill", log.warning, lambda signal: f"kill({signal})")
    tell("closing", log.info, lambda: "shutting down")
    tell("close", log.info, lambda: "shutdown complete")
    tell("changed", log.info, lambda path: f"changed - {path}")
    tell("restarting", log.info, lambda data: "restarting: starting a new master")
    tell("restart", log.info, lambda data: "restart complete")
    tell("resumed", log.warning, lambda: "the new master has died; this one serves again")
    tell("restart failed", log.error, lambda reason: f"restart failed: {reason}; this master serves on")
    tell("cyclic restart", log.warning, narration.cyclic)
    tell("reloading", log.info, lambda generation: f"reloading: generation {generation} is starting")
    tell("reloaded", log.info, lambda generation: f"reload complete (generation {generation})")
    tell("reload failed", log.error,
         lambda generation, reason: f"reload failed (generation {generation}): {reason}; the old workers serve on")
