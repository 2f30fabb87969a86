"""Settings, signals, kinds, events, results, commands: what is pure about them."""

from __future__ import annotations

import functools
import signal
from typing import Any

import gevent
import pytest

from cluster import kinds, signals
from cluster.commands import Command, Commands
from cluster.errors import ConfigurationError, OperationFailed
from cluster.events import CATALOGUE, Emitter, normal
from cluster.results import Result
from cluster.settings import SETTINGS, Settings, typed


@pytest.mark.parametrize(("name", "value", "wanted"), [
    ("workers", "4", 4), ("timeout", "2.5", 2.5), ("timeout", 3, 3.0), ("preload", "yes", True),
    ("preload", "off", False),
    ("umask", "027", 0o27), ("user", "1000", 1000), ("restart", "reload", "reload"), ("workers", None, None),
])
def test_b5_values_as_text(name: str, value: object, wanted: object) -> None:
    """B5: settings take what a command line can give."""
    assert typed(name, value) == wanted


@pytest.mark.parametrize(("name", "value"), [
    ("workers", 1.5), ("workers", ""), ("timeout", -1), ("timeout", float("inf")),
    ("timeout", float("nan")), ("timeout", None),
    ("preload", "perhaps"), ("preload", 1), ("umask", 0o1000), ("umask", "9"), ("title", ""), ("user", -1),
    ("user", ""),
    ("timeout", 10**400), ("backlog", 2**40), ("group", 2**40),
    ("signals", []), ("signals", {1: "close"}), ("working directory", 3), ("ready", "now"), ("backlog", 0),
])
def test_b5_wrong_values(name: str, value: object) -> None:
    """B5: the error names the setting and what would be right."""
    with pytest.raises(ConfigurationError, match=name):
        typed(name, value)


def test_b5_defaults_pass_their_own_checks() -> None:
    """Each default is a value that the setting takes, each setting has help."""
    for setting in SETTINGS.values():
        assert typed(setting.name, setting.default) == setting.default
        assert setting.help and setting.name == normal(setting.name)
    assert Settings()["abort_deaths"] == 20


def test_signal_names() -> None:
    """A signal by any of its names; nonsense is refused with what is close."""
    assert {signals.number(given) for given in ("SIGTERM", "TERM", "term", 15, "15")} == {signal.SIGTERM}
    with pytest.raises(ConfigurationError, match="did you mean 'SIGTERM'"):
        signals.number("SIGTREM")
    for nonsense in (0, -1, 999, None, True, "", 1.5):
        with pytest.raises(ConfigurationError):
            signals.number(nonsense)  # type: ignore[arg-type]
    assert signals.ending("term") == signal.SIGTERM
    with pytest.raises(ConfigurationError, match="a worker does not end by SIGHUP; it does by SIGQUIT"):
        signals.ending("HUP")
    meaning = signals.meaning({"USR2": None, "WINCH": "spawn"}, lambda name: name == "spawn")
    assert meaning[signal.SIGUSR2] == ()
    assert (meaning[signal.SIGWINCH], meaning[signal.SIGQUIT]) == (("spawn",), ("close",))


def test_what_term_and_int_mean() -> None:
    """Row W4: by who started the master; the user's map has the last word; a pair, `default`, False (Y10)."""
    def meaning(setting: object, **around: bool) -> signals.Meanings:
        return signals.meaning(setting, lambda name: name in ("close", "destroy", "spawn"), **around)

    plain, managed = meaning("auto"), meaning("auto", managed=True)
    assert plain[signal.SIGTERM] == plain[signal.SIGINT] == managed[signal.SIGINT] == ("destroy",)
    assert managed[signal.SIGTERM] == ("close",) and meaning("auto", foreground=True)[signal.SIGTERM] == ("destroy",)
    assert meaning("auto", foreground=True)[signal.SIGINT] == ("close", "destroy")
    given = meaning({"SIGTERM": "destroy", "SIGHUP": "default", "INT": ("spawn", "close")}, managed=True)
    assert given[signal.SIGTERM] == ("destroy",) and given[signal.SIGINT] == ("spawn", "close")
    assert signal.SIGHUP not in given and meaning(False, managed=True) == {}
    assert signals.by_command(plain)["destroy"] == signals.by_command(managed)["destroy"] == signal.SIGINT
    assert signals.by_command(managed)["close"] == signal.SIGQUIT
    for wrong in ({"SIGTERM": ("close", "clsoe")}, {"SIGTERM": ("close", None)}, {"SIGTERM": 5}):
        with pytest.raises(ConfigurationError, match="there is no command"):
            meaning(wrong)
    for unusable in ({"SIGTERM": ("close",)}, {"SIGTERM": ("close", "close", "close")}, True, "close", 5):
        with pytest.raises(ConfigurationError, match="setting 'signals' cannot be"):
            typed("signals", unusable)


def test_kinds() -> None:
    """Servers told apart, asynchronous ones also behind partials and methods."""
    async def asgi(scope: object) -> None:
        pass

    class WithMethod:
        async def handle(self) -> None:
            pass

    assert kinds.classify(None) is kinds.Kind.ABSTRACT and kinds.classify("a:b") is kinds.Kind.NAMED
    assert kinds.classify(kinds.tcp(print)) is kinds.Kind.TCP and kinds.classify(kinds.job(print)) is kinds.Kind.JOB
    assert kinds.classify(lambda environ, start: []) is kinds.Kind.WSGI
    for coroutine in (asgi, functools.partial(asgi, 1), WithMethod().handle):
        with pytest.raises(ConfigurationError, match="ASGI"):
            kinds.classify(coroutine)
    kinds.check_wsgi(lambda *args: [])
    kinds.check_wsgi(print)
    with pytest.raises(ConfigurationError, match="as a job"):
        kinds.check_wsgi(lambda worker: None)


class Answers:
    """Callable and of many shapes."""

    def __init__(self, size: int = 1) -> None:
        self.size = size

    def __call__(self, environ: object, start: object, more: object = None) -> list[bytes]:
        return []

    def one(self, worker: object) -> None:
        pass

    def serve(self, *, debug: bool) -> None:
        pass

    @staticmethod
    def static(environ: object, start: object) -> list[bytes]:
        return []


class Short:
    def __call__(self, environ: object) -> list[bytes]:
        return []


class Rows:
    """An application that is a class: what it makes is the answer."""

    def __init__(self, environ: object, start: object) -> None:
        pass

    def __iter__(self) -> Any:
        return iter(())


class Settled(Answers):
    def __init__(self, name: str, debug: bool = False) -> None:
        super().__init__()


def two(environ: object, start: object) -> list[bytes]:
    return []


@pytest.mark.parametrize("server", [
    Answers(), Answers().__call__, Answers.static, Rows, two, functools.partial(two), functools.lru_cache(two),
    functools.partial(two, start=print), print, dict, lambda *words: [],
])
def test_what_may_be_a_wsgi_application(server: Any) -> None:
    """Row W8: what takes two arguments, or does not tell what it takes, is served."""
    assert kinds.check(server, True) is kinds.Kind.WSGI


@pytest.mark.parametrize("server, words", [
    (lambda: two, "a factory is called in the string"),
    (lambda a, b, c: [], "does not take \\(environ, start_response\\)$"),
    (lambda a, b, *, c: [], "does not take"),
    (Short(), "Short object .* does not take"),
    (Short, "Short\\(\\) .* a factory is called in the string, as in 'module:Short\\(\\)'"),
    (Settled, "Settled\\(\\) is not a WSGI application: what it makes is no answer to a request; a factory"),
    (Answers().one, "to run it as a job use cluster.job\\(one\\), or --job"),
    (Answers().serve, "does not take"),
    (functools.partial(two, {}), "does not take"),
    (functools.partial(two, {}, print, 3), "does not take"),
    (None, "cannot serve None"),
    ("app:app", "cannot serve 'app:app'"),
])
def test_what_cannot_be_a_wsgi_application(server: Any, words: str) -> None:
    """Row W8: functions, methods, instances and classes that would fail at each request are refused before."""
    with pytest.raises(ConfigurationError, match=words):
        kinds.check(server, True)


def test_what_can_be_a_job() -> None:
    """Row W8: a job takes a worker, a handler of connections a socket and an address."""
    assert kinds.check(Answers().one, False) is kinds.check(kinds.job(print), True) is kinds.Kind.JOB
    with pytest.raises(ConfigurationError, match=r"takes a function of \(worker\)"):
        kinds.check(lambda: None, False)
    with pytest.raises(ConfigurationError, match="takes a function"):
        kinds.job(two)
    with pytest.raises(ConfigurationError, match=r"takes a function of \(socket, address\)"):
        kinds.tcp(lambda connection: None)
    with pytest.raises(ConfigurationError, match="needs an address"):
        kinds.check(kinds.tcp(two), False)
    with pytest.raises(ConfigurationError, match="needs an address"):
        kinds.check(two, False)


def test_emitter_order_and_failures() -> None:
    """B4: a handler that raises is reported, the others run; `once` is once also when emitted from inside."""
    emitter, calls, failures = Emitter(), [], []
    emitter.on_failure = lambda name, handler, error: failures.append((name, type(error)))

    def bad() -> None:
        raise SystemExit(3)

    def again() -> None:
        calls.append("again")
        emitter.dispatch("x")

    emitter.add("x", again, once=True)
    emitter.add("x", bad)
    emitter.add("x", lambda: calls.append("last"))
    emitter.dispatch("x")
    assert calls == ["again", "last", "last"] and failures == [("x", SystemExit)] * 2
    assert all(event.name == normal(event.name) and event.help for event in CATALOGUE.values())


def test_result() -> None:
    """wait() returns the value, raises the reason, or times out; the guard is asked before it blocks."""
    result = Result("spawn")
    with pytest.raises(TimeoutError, match="spawn is not done"):
        result.wait(0.01)
    gevent.spawn(result.succeed, 5)
    assert result.wait(20) == 5 and result.done and result.error is None
    failed = Result("reload")
    failed.fail("no")
    failed.succeed(1)
    with pytest.raises(OperationFailed, match="reload: no"):
        failed.wait()

    def guard() -> None:
        raise RuntimeError("guarded")

    with pytest.raises(RuntimeError, match="guarded"):
        Result("x", guard).wait()


def test_commands() -> None:
    """Names with spaces or underscores, taken ones, wrong ones."""
    commands = Commands()
    commands.add(Command("reopen logs", print, "help"))
    assert commands.get("reopen_logs").run is print and "reopen logs" in commands
    with pytest.raises(ConfigurationError, match="already"):
        commands.add(Command("reopen_logs", print, ""))
    with pytest.raises(ConfigurationError, match="did you mean 'reopen logs'"):
        commands.get("reopen log")
    with pytest.raises(ConfigurationError, match="needs a function"):
        commands.add(Command("x", 3, ""))  # type: ignore[arg-type]
