"""The commands of the ``cluster`` program that operate a running cluster."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterable
from typing import Any

import click

from . import operating, remote
from .counters import quantile
from .errors import ClusterError, RemoteError, did_you_mean
from .program import OneLine

#: how long a command waits until it is done, in seconds
WAIT = 120.0
#: seconds between two looks of ``status --watch``
WATCH = 1.0
_SECRET = "CLUSTER_REPL_SECRET"

where_options = (
    click.option("--pidfiles", "directory", metavar="DIR", type=click.Path(file_okay=False),
                 help="The directory of the pid files. Default: pids, below the current directory."),
    click.option("--socket", "socket", metavar="PATH|HOST:PORT", help="The socket of pidfiles() or repl()."),
    click.option("--secret-file", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
                 help=f"Holds the secret of a REPL on a port. Default: ${_SECRET}."),
)


_no_wait = click.option("--no-wait", is_flag=True, help="Do not wait until it is done.")


def _with_where(function: Any) -> Any:
    for option in reversed(where_options):
        function = option(function)
    return function


class Operator(click.Command):
    """A command for a running cluster: what the cluster says no to, or that nobody was there to ask, is one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except ClusterError as error:
            raise OneLine(str(error), error.exit_code) from None


def secret_of(file: str | None) -> str | None:
    """The secret of a REPL on a port, from a file or the environment."""
    if file is None:
        return os.environ.get(_SECRET)
    with open(file, encoding="utf-8") as opened:
        return opened.read().strip()


def ask(directory: str | None, socket: str | None, secret_file: str | None, name: str, *words: str,
        wait: float = WAIT) -> Any:
    """Run a command in the cluster that the options mean. Raises `ClusterError`."""
    if socket is None:
        return operating.operate(os.path.abspath(directory or "pids"), name, words, wait=wait)
    if directory is not None:
        raise click.UsageError("use --pidfiles or --socket, not both")
    with remote.Remote.at(socket, secret_of(secret_file)) as connection:
        return connection.command(name, words, wait)


@click.command(cls=Operator)
@_with_where
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--watch", is_flag=True, help="Show it anew each second, until Ctrl-C.")
def status(directory: str | None, socket: str | None, secret_file: str | None, as_json: bool, watch: bool) -> None:
    """Show master and workers, and what they have served."""
    while True:
        found = _status(directory, socket, secret_file)
        if watch:
            click.clear()
        if as_json:
            click.echo(json.dumps(found))
        else:
            click.echo("\n".join(operating.table(found) if "workers" in found else _by_files(found)))
        if not watch:
            return
        try:
            time.sleep(WATCH)
        except KeyboardInterrupt:
            return


def _status(directory: str | None, socket: str | None, secret_file: str | None) -> Any:
    try:
        found = ask(directory, socket, secret_file, "status", wait=0.0)
    except ClusterError:
        if socket is not None:
            raise
        # no answer: the files tell at least who lives
        found = operating.look(os.path.abspath(directory or "pids"))
        if not any(process.alive for process in found):
            raise remote.NotRunning("not running: " + ", ".join(map(str, found))) from None
        return {"answers": False, "processes": [dataclasses.asdict(process) for process in found]}
    for process in (found, *found["workers"]):
        process["memory"] = operating.memory(process["pid"])
        buckets = operating.histogram(process.get("totals", process))
        process["p99"] = quantile(buckets, 0.99) if buckets else None
    return found


def _by_files(found: Any) -> list[str]:
    return ["the master does not answer; by the pid files:",
            *(str(remote.Process(**process)) for process in found["processes"])]


def _simple(name: str, command: str, help: str) -> click.Command:
    def run(directory: str | None, socket: str | None, secret_file: str | None, no_wait: bool) -> None:
        value = ask(directory, socket, secret_file, command, wait=0.0 if no_wait else WAIT)
        _say(name, value)

    run.__doc__ = help
    run.__name__ = name
    return click.command(name, cls=Operator)(_with_where(_no_wait(run)))


def _say(name: str, value: Any) -> None:
    click.echo(f"{name}: {value}" if isinstance(value, str) else f"{name}: done")


@click.command(cls=Operator)
@click.argument("n", type=click.IntRange(min=0))
@click.argument("signal", default="SIGQUIT")
@_with_where
@_no_wait
def resize(n: int, signal: str, directory: str | None, socket: str | None, secret_file: str | None,
           no_wait: bool) -> None:
    """Have N workers; those that are too many end by SIGNAL."""
    _say("resize", ask(directory, socket, secret_file, "resize", str(n), signal, wait=0.0 if no_wait else WAIT))


def of_the_cluster(name: str, known: Iterable[str]) -> click.Command:
    """The command *name*, which is none of those *known* to the program: the running cluster may have it."""

    # words may begin with a hyphen, as in ``spawn -1``
    @click.command(name, cls=Operator, context_settings={"ignore_unknown_options": True})
    @click.argument("words", nargs=-1)
    @_with_where
    @_no_wait
    def forward(words: tuple[str, ...], directory: str | None, socket: str | None, secret_file: str | None,
                no_wait: bool) -> None:
        """Ask the running cluster for this command."""
        try:
            value = ask(directory, socket, secret_file, name, *words, wait=0.0 if no_wait else WAIT)
        except remote.NotRunning as error:
            hint = did_you_mean(name, known, ".")
            raise remote.NotRunning(
                f"no such command {name!r}{hint} No cluster was found to ask for it, either: {error}") from None
        click.echo(operating.shown(name, value))

    return forward


@click.command(cls=Operator)
@click.argument("address", metavar="PATH|HOST:PORT")
@click.option("--secret-file", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
              help=f"Holds the secret of a REPL on a port. Default: ${_SECRET}, or it is asked for.")
def repl(address: str, secret_file: str | None) -> None:
    """A Python prompt inside the master that listens at PATH or HOST:PORT."""
    from .console import Console

    secret = secret_of(secret_file)
    if secret is None and "/" not in address and address.rpartition(":")[2].isdecimal() and not os.path.exists(address):
        secret = click.prompt("secret", hide_input=True)
    raise SystemExit(Console(lambda: _repl_at(address, secret)).run())


def _repl_at(address: str, secret: str | None) -> remote.Remote:
    """A connection to a REPL: only when it answers is it known who is there. Raises `NotRunning`, `RemoteError`."""
    connection = remote.Remote.at(address, secret)
    try:
        connection.send({"complete": ""})
        answer = connection.receive()
        while "told" in answer:
            answer = connection.receive()
        if "names" not in answer:
            raise RemoteError(f"no REPL is at {address}, which only takes commands; use(repl(ADDRESS)) makes one")
    except ClusterError as error:
        connection.close()
        if isinstance(error, remote.HungUp):
            raise remote.NotRunning(f"{address} hung up: is the secret right? Are too many connected?") from None
        raise
    return connection


def add_to(program: click.Group) -> None:
    """Add these commands to the program."""
    for command in (
        status,
        _simple("restart", "restart", "Replace the master and its workers by new ones."),
        _simple("reload", "reload", "Replace the workers by a new generation, or keep the old one."),
        resize,
        _simple("shutdown", "close", "End gracefully."),
        _simple("stop", "close", "The same as shutdown."),
        _simple("destroy", "destroy", "End at once."),
        repl,
    ):
        program.add_command(command)
