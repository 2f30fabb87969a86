"""The ``cluster`` command line."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, NoReturn

import click

from . import __version__
from .errors import EXIT_USAGE, ClusterError, ConfigurationError

#: where ``cluster serve`` listens when nothing else is said
DEFAULT_ADDRESS = "127.0.0.1:8000"


class OneLine(click.ClickException):
    """An error that the user can do something about: one line, and an exit code."""

    def __init__(self, message: str, exit_code: int = EXIT_USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click's type hint says one for all

    def show(self, file: Any = None) -> None:
        """Print it."""
        click.echo(f"cluster: {self.message}", err=True, file=file)


class Program(click.Group):
    """Loads the commands for a running cluster only where they are wanted: ``serve`` has to start fast.

    A name that it does not know may be a command that a plugin added to the running cluster, which is asked for it.
    """

    def _complete(self) -> None:
        from .operators import add_to

        add_to(self)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by name."""
        if cmd_name not in self.commands:
            self._complete()
        if cmd_name not in self.commands:
            from .operators import of_the_cluster

            return of_the_cluster(cmd_name, self.commands)
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, for the help."""
        self._complete()
        return super().list_commands(ctx)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]},
             epilog="Any other command is asked of the running cluster, which has more, also from plugins: "
                    "cluster spawn 1, cluster stats.")
@click.version_option(__version__, prog_name="cluster", message="%(prog)s %(version)s")
def program() -> None:
    """Serve a WSGI application, a TCP server or a job on all cores, without failing a request."""


@program.command()
@click.argument("target")
@click.option("-w", "--workers", type=int, metavar="N", envvar="WEB_CONCURRENCY",
              help="How many workers. Default: $WEB_CONCURRENCY, or one for each CPU that may be used.")
@click.option("-b", "--bind", "addresses", multiple=True, metavar="ADDRESS",
              help="Port, host:port, [::1]:port, unix:/path or fd://3; may be repeated. "
                   f"Default: 0.0.0.0:$PORT, or {DEFAULT_ADDRESS}.")
@click.option("-e", "--env", metavar="NAME", help="The environment, as CLUSTER_ENV.")
@click.option("-s", "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting; may be repeated.")
@click.option("--chdir", type=click.Path(exists=True, file_okay=False), metavar="DIR",
              help="Run there, and look there for the application. Default: the current directory.")
@click.option("--preload", is_flag=True, help="Import the application before forking: less memory.")
@click.option("--job", "as_job", is_flag=True, help="TARGET is a function that each worker runs; no address.")
def serve(
    target: str,
    workers: int | None,
    addresses: tuple[str, ...],
    env: str | None,
    settings: tuple[str, ...],
    chdir: str | None,
    preload: bool,
    as_job: bool,
) -> None:
    """Serve TARGET: package.module:app, package.module:make_app(), or ./path/app.py."""
    if env is not None:
        os.environ["CLUSTER_ENV"] = env
    if as_job and addresses:
        raise OneLine("a job has no address; leave out --job or --bind")
    try:
        master = _master(target, chdir)
        if workers is not None:
            master.set("workers", workers)
        if preload:
            master.set("preload", True)
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals:
                raise OneLine(f"--set takes NAME=VALUE, not {setting!r}")
            try:
                master.set(name.strip(), value)
            except UserWarning as warning:  # where warnings are errors
                raise OneLine(str(warning)) from None
        for address in [] if as_job else addresses or [_default_address()]:
            master.bind(address)
        if master.environment == "development":
            from .plugins.debug import debug

            master.use(debug())
        master.start()
    except ConfigurationError as error:
        raise OneLine(str(error)) from None


@program.command()
@click.argument("target")
@click.option("--chdir", type=click.Path(exists=True, file_okay=False), metavar="DIR",
              help="Look there for the application. Default: the current directory.")
@click.option("--job", "as_job", is_flag=True, help="TARGET is a function that each worker runs; as for serve.")
def check(target: str, chdir: str | None, as_job: bool) -> None:
    """Import TARGET and see whether it can be served; exit code 0 or 2."""
    from . import importer, kinds
    from .launch import patch
    from .vhosts import VirtualHosts

    try:
        patch(lambda text: click.echo(f"cluster: {text}", err=True))
        master = _master(target, chdir)
        named = importer.parse(target, master.base)
        importer.check(named, master.base)
    except ConfigurationError as error:
        raise OneLine(str(error)) from None
    os.chdir(master.base)
    try:
        server = importer.load(named, master.base)
        if isinstance(server, VirtualHosts):
            server = server.load(master.base)
        what = kinds.DESCRIPTIONS[kinds.check(server, not as_job)]
    except ClusterError as error:
        raise OneLine(str(error)) from None
    except BaseException as error:  # noqa: BLE001 - the application's own, whatever it is; SystemExit too
        _application_failed(error)
    click.echo(f"{target} is {what}")


def _application_failed(error: BaseException) -> NoReturn:
    from .complaints import application_traceback

    click.echo(application_traceback(error), err=True, nl=False)
    sys.exit(2)


def _master(target: str, chdir: str | None) -> Any:
    try:
        base = chdir or os.getcwd()
    except FileNotFoundError:
        raise OneLine("the current directory has been deleted; go to another one, or use --chdir") from None
    # the application may import ssl, requests and so on: nothing may come before the patch
    from .launch import patch
    from .master import Master

    patch(lambda text: click.echo(f"cluster: {text}", err=True))
    master = Master(target, base=base)
    master.is_service = True
    return master


def _warn_in_one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    if category is UserWarning:  # ours, about a name that is close to a known one
        click.echo(f"cluster: {message}", err=True)
    else:
        click.echo(warnings.formatwarning(message, category, filename, lineno, line), err=True, nl=False)


def _default_address() -> str:
    port = os.environ.get("PORT")
    return f"0.0.0.0:{port}" if port else DEFAULT_ADDRESS


def main() -> None:
    """Entry point."""
    warnings.showwarning = _warn_in_one_line
    program(prog_name="cluster")
