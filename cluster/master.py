"""Master: the fluent surface. It gathers a plan, then hands it to the supervisor."""

from __future__ import annotations

import grp
import os
import pwd
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from . import host, importer, kinds, signals, uncaught
from .addresses import check_options as check_listener_options
from .addresses import parse as parse_address
from .commands import Commands
from .complaints import Complaints
from .errors import ConfigurationError, did_you_mean, unusable
from .events import CATALOGUE, Emitter, normal
from .extending import Extensible, call_plugin, check_plugin
from .importer import Target
from .kinds import Kind
from .listeners import Listeners
from .operations import Operations
from .settings import Settings
from .vhosts import VirtualHosts

ENVIRONMENT = "CLUSTER_ENV"
DEFAULT_ENVIRONMENT = "development"


class Master(Operations, Extensible):
    """A cluster being configured, then the cluster itself; every configuring method returns it.

    *server*: a WSGI application, ``"package.module:app"``, ``"./path/app.py"``, ``cluster.tcp(handler)``,
    ``cluster.job(function)``, a gevent server that is not started (its own address is used when nothing else is bound),
    or None: then ``start()`` returns in each worker and the rest of the script is the worker's job. *base*: the
    directory that relative names are taken against, default the script's.

    Raises `ConfigurationError` for a server of no known kind.
    """

    def __init__(self, server: Any = None, base: str | None = None) -> None:
        super().__init__()
        uncaught.tell_in_one_line()
        kinds.classify(server)
        if base is not None and (reason := unusable(base)):
            raise ConfigurationError(f"base cannot be {base!r}: {reason}")
        self.server = server
        #: directory that relative names are taken against
        self.base = os.path.abspath(base) if base is not None else host.script_directory()
        #: set by a plugin that takes over: then ``listen`` and ``start`` return at once
        self.prevent_default = False
        #: set by a plugin that tells the operator what happens; else the master reports failures itself, on stderr
        self.narrated = False
        #: the worker that this process is; None in the master
        self.worker: Any = None
        #: whether this is a service by itself, as `cluster serve` is: then TERM closes wherever it runs
        self.is_service = False
        self._settings = Settings()
        self._emitter = Emitter()
        self._complaints = Complaints()
        self._emitter.on_failure = self._complaints.handler_failed
        self._complaints.subscribe(self._emitter, lambda: self.narrated)
        self._commands = Commands()
        self._add_commands()
        from .calls import Calls

        self._calls = Calls(self._commands, self._complaints)
        self._environment: str | None = None
        self._addresses: list[tuple[list[Any], dict[str, Any]]] = []
        self._worker_plugins: list[Callable[[Master], Any]] = []
        self._supervisor: Any = None
        self._listeners: Listeners | None = None
        self._over = False

    # -- configuring

    @property
    def environment(self) -> str:
        """The environment this process runs in: ``CLUSTER_ENV``, default ``development``."""
        return os.environ.get(ENVIRONMENT) or DEFAULT_ENVIRONMENT

    def in_(self, environment: str) -> Master:
        """Limit all following calls, until the next ``in_``, to *environment*; ``"all"`` matches always."""
        if not isinstance(environment, str) or not environment:
            raise ConfigurationError(f"in_() takes the name of an environment, not {environment!r}")
        self._environment = None if environment == "all" else environment
        return self

    def _applies(self) -> bool:
        return self._environment is None or self._environment == self.environment

    def set(self, name: str | Mapping[str, Any] | None = None, value: Any = None, /, **values: Any) -> Master:
        """Set *name* to *value*, or several at once by keyword; underscores mean spaces.

        Names that are not in docs/settings.md are kept for plugins, with a warning when close to a known one.
        Raises `ConfigurationError` for a value that the setting does not take.
        """
        if not self._applies():
            return self
        if isinstance(name, Mapping):
            values = {**name, **values}
        elif name is not None:
            self._set(name, value)
        for key, item in values.items():
            self._set(key, item)
        return self

    def _set(self, name: str, value: Any) -> None:
        self._settings.set(name, value)
        if name == "signals":
            signals.meaning(self._settings["signals"], self._commands.stands_alone)

    def has(self, name: str) -> bool:
        """Whether the setting *name* was set."""
        return self._settings.given(name)

    @property
    def options(self) -> Settings:
        """All settings with their values, a mapping."""
        return self._settings

    def do(self, function: Callable[[Master], Any]) -> Master:
        """Call ``function(self)`` now, when the environment matches."""
        if self._applies():
            if not callable(function):
                raise ConfigurationError(f"do() takes a function of the master, not {function!r}")
            function(self)
        return self

    def use(self, *plugins: Callable[[Master], Any]) -> Master:
        """Register plugins: ``plugin(self)`` is called now, and in each worker when it has ``enable_in_worker``.

        Raises `ConfigurationError` naming what is no plugin.
        """
        if not self._applies():
            return self
        for plugin in plugins:
            check_plugin(plugin)
        for plugin in plugins:
            call_plugin(plugin, self)
            if getattr(plugin, "enable_in_worker", False):
                self._worker_plugins.append(plugin)
        return self

    def on(self, name: str, handler: Callable[..., Any] | None = None) -> Any:
        """Call *handler* at every event *name*; a decorator when *handler* is left out. See docs/events.md."""
        return self._add_handler(name, handler, False)

    def once(self, name: str, handler: Callable[..., Any] | None = None) -> Any:
        """Call *handler* at the next event *name* only."""
        return self._add_handler(name, handler, True)

    def _add_handler(self, name: str, handler: Callable[..., Any] | None, once: bool) -> Any:
        if not isinstance(name, str):
            raise ConfigurationError(f"on() takes the name of an event, not {name!r}")
        if normal(name) not in CATALOGUE:
            hint = did_you_mean(normal(name), CATALOGUE, cutoff=0.8)
            if hint:
                warnings.warn(f"unknown event {name!r}{hint}", UserWarning, stacklevel=3)
        if handler is None:
            def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
                if self._applies():
                    self._emitter.add(name, function, once)
                return function

            return decorate
        if self._applies():
            self._emitter.add(name, handler, once)
        return self

    def off(self, name: str, handler: Callable[..., Any] | None = None) -> Master:
        """Forget *handler*, or all handlers, of the event *name*."""
        self._emitter.remove(name, handler)
        return self

    def emit(self, name: str, *args: Any) -> Master:
        """Emit an event: in a running master after those that are under way, elsewhere here and now."""
        if self._supervisor is not None and not self.is_worker:
            self._supervisor.announcer.say(name, *args)
        else:
            self._emitter.dispatch(name, *args)
        return self

    def bind(self, address: Any, host: str | None = None, **options: Any) -> Master:
        """Add an address to listen on; it is bound at ``start()``.

        *address*: a port (all IPv4 interfaces, or *host*), ``"host:port"``, ``"[::1]:port"``, ``"unix:/path"``,
        ``"fd://3"``, a bound socket, or a list of these. *options* belong to it: ``mode`` and ``owner`` of a unix
        socket, ``tls``, ``proxy_protocol``. Raises `ConfigurationError`.
        """
        if self._applies():
            addresses = parse_address(address, host, self.base)
            self._addresses.append((addresses, check_listener_options(options)))
        return self

    # -- running

    def listen(
        self,
        address: Any = None,
        host: str | Callable[[], Any] | None = None,
        callback: Callable[[], Any] | None = None,
        **options: Any,
    ) -> Master:
        """`bind` and `start` in one. *callback* is called once the cluster listens."""
        if callable(address) and not hasattr(address, "getsockname"):
            address, callback = None, address
        if callable(host):
            host, callback = None, host
        if not self._applies():
            return self
        if self.prevent_default:
            return self
        self._may_start()
        if address is not None:
            self.bind(address, host, **options)
        elif host is not None or options:
            raise ConfigurationError("listen() with a host or options needs an address, too")
        return self.start(callback)

    def start(self, callback: Callable[[], Any] | None = None) -> Master:
        """Run the cluster. Blocks in the master until it has closed, then returns.

        With no server it returns in each worker as well, with ``is_worker`` true; with one, a worker never comes back.
        Raises `ConfigurationError` before anything is forked; SystemExit with the exit code when the cluster failed
        (1: an address cannot be bound, or the supervisor failed; 3: no worker got ready).
        """
        if not self._applies():
            return self
        if self.prevent_default:
            return self
        self._may_start()
        from .launch import run

        return run(self, callback)

    def _may_start(self) -> None:
        from .workers import runtime

        if self.is_worker or runtime.current() is not None:
            raise ConfigurationError("this process is a worker of a cluster already; start it from the script, not "
                                     "from the application")
        if self._supervisor is not None:
            raise ConfigurationError("this cluster runs already; bind() more addresses before, or make another process")
        if self._over:
            raise ConfigurationError("this cluster has closed; make another one")
        if not host.in_main_thread():
            raise ConfigurationError("a cluster is started from the main thread, where signals arrive")

    # -- checks and facts that the launch needs

    def check(self) -> Target | None:
        """Check the whole configuration without binding, forking or importing anything.

        Returns what a string server names. Raises `ConfigurationError`.
        """
        target = None
        kind = kinds.classify(self.server)
        if kind is Kind.NAMED:
            target = importer.parse(self.server, self.base)
            importer.check(target, self.base)
        elif isinstance(self.server, VirtualHosts):
            self.server.check(self.base)
        elif kind is Kind.WSGI and self._addresses:
            kinds.check_wsgi(self.server)
        elif kind is Kind.GEVENT and not self._addresses:
            self._addresses.append((parse_address(getattr(self.server, "socket", self.server.address)), {}))
        if kind in (Kind.WSGI, Kind.TCP) and not self._addresses:
            raise ConfigurationError("nothing to listen on: use listen(address) or bind(address)")
        signals.meaning(self._settings["signals"], self._commands.stands_alone)
        if self.worker_count() > self._settings["max workers"]:
            raise ConfigurationError(f"setting 'workers': {self.worker_count()} is more than 'max workers', which is "
                                     f"{self._settings['max workers']}")
        directory = self.working_directory
        if not os.path.isdir(directory):
            raise ConfigurationError(f"setting 'working directory': there is no directory {directory}")
        self.identity()
        return target

    @property
    def working_directory(self) -> str:
        """Where the cluster runs."""
        return os.path.normpath(os.path.join(self.base, self._settings["working directory"] or ""))

    def identity(self) -> tuple[int | None, int | None, str | None] | None:
        """User id, group id and user name that workers take on, or None. Raises `ConfigurationError`."""
        user, group = self._settings["user"], self._settings["group"]
        if user is None and group is None:
            return None
        uid = gid = None
        login = None
        try:
            if user is not None:
                entry = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
                uid, gid, login = entry.pw_uid, entry.pw_gid, entry.pw_name
        except (KeyError, ValueError):  # ValueError: a text that can be no name
            if not isinstance(user, int):
                raise ConfigurationError(f"setting 'user': there is no user {user!r}") from None
            uid = user
            if group is None:
                raise ConfigurationError(f"setting 'user': there is no user {user}, so its group is not known; set "
                                         "'group', too") from None
        try:
            if group is not None:
                gid = group if isinstance(group, int) else grp.getgrnam(group).gr_gid
        except (KeyError, ValueError):
            raise ConfigurationError(f"setting 'group': there is no group {group!r}") from None
        if os.geteuid() != 0 and (uid not in (None, os.geteuid()) or gid not in (None, os.getegid())):
            raise ConfigurationError("settings 'user' and 'group' need a master that runs as root")
        return uid, gid, login

    def meanings(self) -> signals.Meanings:
        """What signals to this master mean. Raises `ConfigurationError`."""
        around = host.surroundings()
        return signals.meaning(self._settings["signals"], self._commands.stands_alone,
                               self.is_service or around.managed, around.foreground)

    def worker_count(self) -> int:
        """How many workers are wanted: the setting, or one for each CPU that this process may use."""
        given = self._settings["workers"]
        return min(host.cpus(), int(self._settings["max workers"])) if given is None else int(given)

    def __repr__(self) -> str:
        return f"<Master of {self.server!r}, {self.state}>"
