"""What an application logs to in its worker: ``cluster.worker().log``."""

from __future__ import annotations

import logging
import sys


def logger_of(parent: logging.Logger, worker: int) -> logging.Logger:
    """A logger whose records go where those of *parent*, the master's log, go: its handlers were forked with it.

    So nothing is sent to the master, who need not believe anything nor have time. Where *parent* has no handler that
    writes anything, records go to stderr instead: what somebody logs is to be seen somewhere.
    """
    log = logging.Logger("cluster.worker")
    log.parent = parent

    def mark(record: logging.LogRecord) -> bool:
        record.worker = worker
        return True

    log.addFilter(mark)
    log.addHandler(_Stderr(parent))
    return log


class _Stderr(logging.Handler):
    """Writes to stderr while nobody else writes."""

    def __init__(self, parent: logging.Logger) -> None:
        super().__init__()
        self._parent = parent
        self.setFormatter(logging.Formatter("[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if any(not isinstance(handler, logging.NullHandler) and not getattr(handler, "writes_nothing", False)
               for handler in self._parent.handlers):
            return
        try:
            # lines below the first are indented: what a client sends cannot forge a line
            sys.stderr.write("\n    ".join(self.format(record).splitlines()) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 - as every handler of the standard library: logging fails no request
            self.handleError(record)
