"""The functions and names that a REPL session begins with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import __version__, narration
from ..commands import Command, key
from ..errors import ClusterError, ConfigurationError
from ..results import Result
from ._functions import Function, functions

if TYPE_CHECKING:
    from ..master import Master

#: seconds that a function waits for an operation; it goes on after that
_WAIT = 60.0


class Outcome:
    """Text that a session shows as it is, without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _done(result: Result, text: str) -> Outcome:
    try:
        result.wait(_WAIT)
    except TimeoutError:
        return Outcome(f"{result.operation} is under way")
    except ClusterError as error:
        return Outcome(str(error))
    return Outcome(text)


def _pids(master: Master, socket: Any) -> None:
    """Show the pids of master and workers."""
    socket.row("master", master.status()["pid"])
    for worker in master.workers:
        socket.row(f"worker {worker.id}", worker.pid)


def _kill(master: Master, socket: Any, id: int, signal: str = "SIGTERM") -> Outcome:
    """Send signal to the worker in slot id."""
    if not isinstance(id, int):
        raise ConfigurationError("kill(id, signal) sends a signal to the worker in one slot, as in kill(0, 'SIGTERM'); "
                                 "m.kill('SIGTERM') sends it to all")
    found = [worker for worker in master.workers if worker.id == id]
    if not found:
        raise ConfigurationError(f"there is no worker {id}")
    pids = ", ".join(str(worker.pid) for worker in found)
    return _done(master.kill(signal, id), f"sent {signal} to {pids}")


def _shutdown(master: Master, socket: Any) -> Outcome:
    """End gracefully."""
    master.close()
    return Outcome("closing")


def _stop(master: Master, socket: Any) -> Outcome:
    """End gracefully, as shutdown() does; destroy() ends at once."""
    return _shutdown(master, socket)


def _select(master: Master, socket: Any, field: str) -> None:
    """Show one field of each worker, as in select('pid')."""
    for worker in master.status()["workers"]:
        if field not in worker:
            raise ConfigurationError(f"no field {field!r}; there are {', '.join(k for k in worker if '_' not in k)}, "
                                     "and counters such as requests_total")
        socket.row(worker["id"], worker[field])


def _echo(master: Master, socket: Any, *words: object) -> None:
    """Show the words again."""
    socket.write(" ".join(str(word) for word in words) + "\n")


def _help(master: Master, socket: Any, *about: object) -> None:
    """Show this."""
    socket.title("Functions")
    for name, function in sorted(everything(master).items()):
        socket.write(f"    {name}{signature(function)}\n        {function.description or '-'}\n")
    socket.title("Names")
    for name, description in NAMES.items():
        socket.write(f"    {name}\n        {description}\n")
    socket.write("\n  Anything else is Python, run in the master: what blocks there, blocks the cluster's care.\n")


NAMES = {
    "m, master": "The master: m.workers, m.status(), m.options, m.on(event, handler), …",
    "workers": "The workers, by slot.",
    "size": "How many workers there are to be.",
    "ages": "How long each worker has been up.",
    "states": "The state of each worker.",
    "_": "The last value.",
}

#: what is said when one of the registry's operations is done, instead of that
_SAYINGS: dict[str, Callable[..., str]] = {
    "spawn": lambda n, signal: f"{'spawned' if n >= 0 else 'removed'} {abs(n)}",
    "resize": lambda n, signal: f"{n} workers",
    "restart": lambda signal: "a new master takes over",
    "reload": lambda signal: "reload complete",
}

#: functions of the REPL alone; no command may have such a name, but `kill`, which means one worker here
OWN = {
    function.name: function
    for function in (
        Function("help", _help, "Show this."),
        *(Function(run.__name__.lstrip("_"), run, (run.__doc__ or "").strip())
          for run in (_pids, _kill, _shutdown, _stop, _select, _echo)),
    )
}


def _of_command(command: Command) -> Function:
    def run(master: Master, socket: Any, *args: Any) -> Any:
        values = command.parse(args)
        value = command.run(*values)
        if not isinstance(value, Result):
            return value
        saying = _SAYINGS.get(command.name)
        return _done(value, saying(*values) if saying else f"{command.name}: done")

    run.__signature__ = inspect.Signature([  # type: ignore[attr-defined]
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for name, default in [("master", inspect.Parameter.empty), ("socket", inspect.Parameter.empty), *(
            (argument.name, inspect.Parameter.empty if argument.required else argument.default)
            for argument in command.arguments)]
    ])
    return Function(key(command.name).replace(" ", "_"), run, command.help)


def everything(master: Master) -> dict[str, Function]:
    """Functions by name: the registry's commands, ours, those that were defined; the later take precedence."""
    from_commands = [_of_command(command) for command in master.commands]
    return {**{function.name: function for function in from_commands}, **OWN, **functions}


def signature(function: Function) -> str:
    """What is to be given, as in ``(n=1, signal='SIGQUIT')``."""
    try:
        parameters = list(inspect.signature(function.run).parameters.values())[2:]
    except (TypeError, ValueError):
        return "(…)"
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature(bare))


def names(master: Master, session: Any) -> dict[str, Any]:
    """What a session's namespace begins with."""

    def bound(function: Function) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            try:
                takes = inspect.signature(function.run)
            except (TypeError, ValueError):  # nobody knows
                return function.run(master, session, *args, **options)
            try:
                given = takes.bind(master, session, *args, **options)
            except TypeError as error:
                raise ConfigurationError(f"{function.name}{signature(function)}: {error}") from None
            given.apply_defaults()
            return function.run(*given.args, **given.kwargs)

        call.__name__ = call.__qualname__ = function.name
        call.__doc__ = function.description
        return call

    found: dict[str, Any] = {name: bound(function) for name, function in everything(master).items()}
    found.update(m=master, master=master, version=__version__, __name__="repl", __doc__=None)
    return found


def live_names(master: Master) -> dict[str, Callable[[], Any]]:
    """Names that are looked up anew each time."""

    def ages() -> Outcome:
        return Outcome("\n".join(f"{w.id}: {narration.duration(w.uptime)}" for w in master.workers) or "no workers")

    def states() -> Outcome:
        return Outcome("\n".join(f"{w.id}: {w.state.value}" for w in master.workers) or "no workers")

    return {"workers": lambda: master.workers, "size": lambda: master.status()["target"], "ages": ages,
            "states": states}
