"""cluster: a single-process WSGI or TCP server as a resilient, zero-downtime, multi-process service.

    from cluster import cluster

    cluster("package.module:app").set("workers", 4).listen(3000)

Nothing heavy is imported before it is needed: neither gevent nor any plugin.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .kinds import job as job
    from .kinds import tcp as tcp
    from .master import Master as Master
    from .plugins.cli import cli as cli
    from .plugins.debug import debug as debug
    from .plugins.exceptions import exceptions as exceptions
    from .plugins.logger import logger as logger
    from .plugins.mail import mail as mail
    from .plugins.pidfiles import pidfiles as pidfiles
    from .plugins.redis_log import redis_log as redis_log
    from .plugins.reload import reload as reload
    from .plugins.repl import repl as repl
    from .plugins.responsetimes import responsetimes as responsetimes
    from .plugins.stats import stats as stats
    from .vhosts import vhost as vhost
    from .workers.runtime import Worker

__version__ = "0.1.0"
#: the same, by the name that node's cluster gives it
version = __version__


def cluster(server: Any = None, base: str | None = None) -> Master:
    """A new cluster around *server*; see `Master`."""
    from .master import Master

    return Master(server, base)


def worker() -> Worker | None:
    """The worker that this process is; None in a master and everywhere else."""
    runtime = sys.modules.get("cluster.workers.runtime")
    return runtime.current() if runtime is not None else None


#: public name → the module that has it
_LAZY = {
    "Master": "master",
    "Argument": "commands",
    "tcp": "kinds",
    "job": "kinds",
    "vhost": "vhosts",
    "ClusterError": "errors",
    "ConfigurationError": "errors",
    "OperationFailed": "errors",
    "RemoteError": "errors",
    "ChannelError": "errors",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LAZY:
        if name in ("tcp", "job", "vhost"):  # they may be called before there is a master
            from .uncaught import tell_in_one_line

            tell_in_one_line()
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    from .plugins import find, own_modules

    if name.startswith("_") or name in own_modules():  # `from . import host` asks here before it imports
        raise AttributeError(f"module 'cluster' has no attribute {name!r}")
    from .uncaught import tell_in_one_line

    tell_in_one_line()  # a plugin may be made before there is a master
    return find(name)


def __dir__() -> list[str]:
    from .plugins import names

    return sorted({*(name for name in globals() if not name.startswith("_")), "__version__", *_LAZY, *names()})


class _CallableModule(ModuleType):
    """``import cluster; cluster(app)`` works, too; type checkers want ``from cluster import cluster``."""

    def __call__(self, server: Any = None, base: str | None = None) -> Master:
        return cluster(server, base)


sys.modules[__name__].__class__ = _CallableModule
