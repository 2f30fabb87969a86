"""The registry of commands: typed arguments, access levels, signatures, and what plugins add to a master."""

from __future__ import annotations

import pytest

from cluster import Master
from cluster.commands import Argument, Command
from cluster.errors import ConfigurationError


def double(n: int, word: str = "x", *, loud: bool = False) -> str:
    """Say a word twice n times.

    More.
    """
    return word * n * 2


def test_arguments_from_the_signature() -> None:
    """m.command(): types, defaults and help come from the function."""
    master = Master()
    assert master.command("double it", double) is master
    command = master.commands.get("double_it")
    assert [(a.name, a.type, a.required, a.default) for a in command.arguments] == [
        ("n", int, True, None), ("word", str, False, "x")]
    assert command.help == "Say a word twice n times." and command.usage == "double-it N [WORD]"
    assert command.run(*command.accept(["2", "ab"])) == "abababab"
    assert command.run(*command.accept(["2"], "local")) == "xxxx"


@pytest.mark.parametrize("words, reason", [
    ([], "needs n"), (["x"], "n is a whole number"), (["1", "2", "3"], "no more")])
def test_wrong_arguments(words: list[str], reason: str) -> None:
    """Each says what would be right."""
    with pytest.raises(ConfigurationError, match=reason):
        Master().command("double", double).commands.get("double").accept(words)


@pytest.mark.parametrize("access, allowed", [("inproc", ["inproc"]), ("local", ["inproc", "local"]),
                                             ("remote", ["inproc", "local", "remote"])])
def test_access(access: str, allowed: list[str]) -> None:
    """A command may be asked for from as far as its access says, and no farther."""
    command = Command("x", lambda: 1, "", access=access)
    for through in ("inproc", "local", "remote"):
        if through in allowed:
            assert command.run(*command.accept([], through)) == 1
        else:
            with pytest.raises(ConfigurationError, match="cannot be asked for"):
                command.accept([], through)


def test_refused_at_once() -> None:
    """A taken name, an unknown access level, what cannot be called, arguments that only go by keyword."""
    def keyword(*, must: int) -> None:
        """No."""

    master = Master()
    for name, function, access in (("reload", double, "local"), ("x", double, "far"), ("x", 3, "local"),
                                   ("x", keyword, "local")):
        with pytest.raises(ConfigurationError):
            master.command(name, function, access=access)
    master.command("y", keyword, arguments=[Argument("must", int)])


def test_names_that_a_surface_has() -> None:
    """T2, C1: a command is not called what means something else on a surface, which would hide it there."""
    from cluster import operators
    from cluster.plugins import _operations, cli
    from cluster.program import program

    operators.add_to(program)
    master = Master()
    names = {*_operations.OWN, *", ".join(_operations.NAMES).split(", "), *program.commands,
             *(word for entry in cli.cli.entries(master) for word in entry.spellings if not word.startswith("-"))}
    for name in names - {"_"}:
        with pytest.raises(ConfigurationError, match=r"already|something else of that name"):
            master.command(name, double)


def test_attributes_of_plugins() -> None:
    """m.provide(): once per name, and a missing one says that a plugin is missing."""
    master = Master()
    assert master.provide("answer", 42).answer == 42 and master.has_attribute("answer")
    for taken in ("answer", "listen", "log", "server"):
        with pytest.raises(ConfigurationError, match="already"):
            master.provide(taken, 1)
    with pytest.raises(AttributeError, match="is the plugin that provides it used"):
        assert master.pidof


def test_log_goes_nowhere_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """m.log is there without any plugin; report_to() redirects what the master reports."""
    master = Master()
    master.log.error("unheard")
    heard: list[str] = []
    master.complain("on stderr")
    master.report_to(heard.append)
    master.complain("in the list")
    assert capsys.readouterr() == ("", "cluster: on stderr\n") and heard == ["in the list"]
