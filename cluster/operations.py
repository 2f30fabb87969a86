"""Operating a cluster and looking at it: the part of `Master` that makes sense once the cluster runs."""

from __future__ import annotations

from typing import Any

from . import signals
from .commands import Argument, Command, Commands
from .errors import EXIT_NO_WORKERS, ConfigurationError, OperationFailed
from .listeners import Listeners
from .results import Result


class Operations:
    """What `Master` can be asked to do while it runs. Each operation returns a `Result` at once."""

    _commands: Commands
    _listeners: Listeners | None
    _supervisor: Any
    _over: bool
    #: the worker that this process is; None in the master
    worker: Any
    server: Any

    # -- operating

    def _add_commands(self) -> None:
        count = Argument("n", int, 1, help="how many")
        signal = Argument("signal", str, "SIGQUIT", help="by which signal they end")
        for command in (
            Command("spawn", self.spawn, "Have n workers more (less, when n is negative).", (count, signal),
                    workers=True),
            Command("remove", self.remove, "Have n workers less; the highest slots go.", (count, signal), workers=True),
            Command("resize", self.resize, "Have n workers.", (Argument("n", int, required=True), signal),
                    workers=True),
            Command("kill", self.kill, "Send a signal to all workers.", (Argument("signal", str, "SIGTERM"),)),
            Command("restart workers", self.restart_workers, "Replace every worker.", (signal,)),
            Command("restart", self.restart, "Replace the master and its workers by new ones.", (signal,)),
            Command("reload", self.reload, "Replace the workers by a new generation, or keep the old one.", (signal,)),
            Command("close", self.close, "End gracefully."),
            Command("destroy", self.destroy, "End at once."),
            Command("status", self.status, "What runs, and what it has counted.", access="remote"),
            Command("reopen logs", self.reopen_logs, "Open log files anew."),
        ):
            self._commands.add(command)

    def _ask(self, operation: str, *args: Any) -> Result:
        if self.is_worker:
            raise OperationFailed(f"{operation}: this is a worker; its master does that (worker.call)")
        if self._supervisor is None:
            reason = "has closed" if self._over else "is not running yet"
            raise OperationFailed(f"{operation}: the cluster {reason}")
        result: Result = self._supervisor.ask(operation, *args)
        return result

    def spawn(self, n: int = 1, signal: str = "SIGQUIT") -> Result:
        """Have *n* workers more; ``spawn(-n)`` is ``remove(n, signal)``. Done when they are ready."""
        n = _whole("spawn", n)
        signals.ending(signal)  # a wrong one is wrong also where none is sent
        return self.remove(-n, signal) if n < 0 else self._ask("spawn", n)

    def remove(self, n: int = 1, signal: str = "SIGQUIT") -> Result:
        """Have *n* workers less: those in the highest slots end by *signal* and do not come back."""
        n = _whole("remove", n)
        if n < 0:
            raise ConfigurationError(f"remove() takes a number of workers, not {n}")
        return self._ask("remove", n, signals.ending(signal))

    def resize(self, n: int, signal: str = "SIGQUIT") -> Result:
        """Have *n* workers. Done when the new ones are ready, or the surplus has gone."""
        n = _whole("resize", n)
        if n < 0:
            raise ConfigurationError(f"resize() takes a number of workers, not {n}")
        return self._ask("resize", n, signals.ending(signal))

    def kill(self, signal: str = "SIGTERM", worker: int | None = None) -> Result:
        """Send *signal* to all workers, or to the one in the slot *worker*. Those that end come back."""
        return self._ask("kill", signals.number(signal), worker)

    def restart_workers(self, signal: str = "SIGQUIT") -> Result:
        """End every worker by *signal*, and fork a new one in its place at once."""
        return self._ask("restart workers", signals.ending(signal))

    def restart(self, signal: str = "SIGQUIT") -> Result:
        """Replace the master: a fresh interpreter takes over the sockets, then the old workers end by *signal*."""
        return self._ask("restart", signals.ending(signal))

    def reload(self, signal: str = "SIGQUIT") -> Result:
        """Replace the workers by a new generation; keep the old one when the new one does not get ready.

        The old ones end by *signal*, once the new ones serve.
        """
        return self._ask("reload", signals.ending(signal))

    def close(self) -> Result:
        """End gracefully: in-flight requests finish."""
        return self._ask("close")

    def destroy(self) -> Result:
        """End at once."""
        return self._ask("destroy")

    def reopen_logs(self) -> Result:
        """Emit the event `reopen logs`."""
        return self._ask("reopen logs")

    def call(self, name: str, *args: Any, timeout: float | None = None) -> Any:
        """In a worker: run the function exposed as *name* in the master; see `Worker.call`."""
        if self.worker is None:
            raise OperationFailed(f"call {name!r}: this is not a worker")
        return self.worker.call(name, *args, timeout=timeout)

    # -- looking

    @property
    def is_worker(self) -> bool:
        """Whether this process is a worker of this cluster."""
        return self.worker is not None

    @property
    def is_master(self) -> bool:
        """Whether this process is (going to be) the master."""
        return self.worker is None

    @property
    def state(self) -> str:
        """``new``, ``starting``, ``running``, ``closing``, ``destroying`` or ``closed``."""
        if self._supervisor is None:
            return "closed" if self._over else "new"
        return str(self._supervisor.state.value)

    @property
    def gave_up(self) -> bool:
        """Whether the cluster ends because no worker ever got ready."""
        return self._supervisor is not None and self._supervisor.exit_code == EXIT_NO_WORKERS

    @property
    def workers(self) -> list[Any]:
        """The workers that are alive, by slot, as `WorkerHandle`; empty in a worker."""
        if self._supervisor is None or self.is_worker:
            return []
        return list(self._supervisor.crew.by_slot())

    @property
    def addresses(self) -> list[str]:
        """Where the cluster listens, with the real ports."""
        return [str(listener) for listener in self._listeners or ()]

    @property
    def commands(self) -> Commands:
        """What this cluster can be asked to do, by name."""
        return self._commands

    def recent_times(self) -> dict[str, int]:
        """How long the requests of the last minute took: the counters `latency_…` of `status`, for these alone.

        Empty in a worker, and where nothing runs.
        """
        if self._supervisor is None or self.is_worker:
            return {}
        found: dict[str, int] = self._supervisor.recent_times()
        return found

    def status(self) -> dict[str, Any]:
        """A snapshot: state, generation, listeners, totals, and per worker its state and counters."""
        if self._supervisor is None or self.is_worker:
            return {"state": self.state, "workers": []}
        found: dict[str, Any] = self._supervisor.status()
        return found


def _whole(operation: str, n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, int):
        raise ConfigurationError(f"{operation}() takes a number of workers, not {n!r}")
    return n
