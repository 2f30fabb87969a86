"""From a configured `Master` to a running one, and, in each forked child, on to the worker."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import gevent.events
import gevent.monkey

from . import certificates, host, importer, kinds, output, servers
from .crew import ForkedChild
from .errors import BindError, ClusterError
from .handover import protocol
from .importer import Target
from .listeners import Listeners
from .plan import Plan
from .supervisor import Supervisor
from .system import set_title
from .vhosts import VirtualHosts
from .workers import runtime
from .workers.identity import Identity

if TYPE_CHECKING:
    from .master import Master

#: seconds that whoever reads what we print has at the end of the master
LAST_WORDS = 1.0


def run(master: Master, callback: Callable[[], Any] | None) -> Master:
    """Check, bind, have plugins check, fork, supervise; see `Master.start`."""
    try:
        return _run(master, callback)
    finally:
        output.give_back(LAST_WORDS)


def _run(master: Master, callback: Callable[[], Any] | None) -> Master:
    target = master.check()
    host.fill_standard_descriptors()
    descriptors = host.raise_descriptor_limit()
    os.environ.pop("CLUSTER_WORKER", None)  # a cluster started by a worker of another one is a master
    if master.options["monkey patch"]:
        patch(master._complaints.say)
    output.take_over("stdout", "stderr")
    predecessor = protocol.claim()
    if predecessor is None:
        os.environ.pop(protocol.PARENT, None)  # of another cluster, below which this one was started
    listeners = Listeners()
    for addresses, options in master._addresses:
        listeners.add(addresses, options, master.options["backlog"])
    os.chdir(master.working_directory)
    server = target if target is not None else master.server
    if target is not None and master.options["preload"]:
        server = importer.load(target, master.base)
        kinds.check(server, bool(listeners))
    named_tls = {listener.key: listener.options["tls"] for listener in listeners if listener.options.get("tls")}
    for listener in listeners:
        if listener.key in named_tls:
            material = certificates.load(named_tls[listener.key], master.base)
            listener.options = {**listener.options, "tls": material}
    if listeners:
        known = target is None or master.options["preload"]
        servers.prepare(server if known else None, master.options, master.base, listeners)
        _fit_connections(master, server if known else None, descriptors)
    if isinstance(server, VirtualHosts) and master.options["preload"]:
        server = server.load(master.base)
    if master.options["preload"]:
        gc.collect()
    try:
        taken = listeners.open(*((predecessor.sockets, predecessor.files) if predecessor is not None else ({}, {})))
    except BindError as error:
        master._complaints.ending(str(error))
        raise SystemExit(error.exit_code) from error
    try:
        for check in master._start_checks:
            check(predecessor is not None)
    except BaseException as error:
        listeners.close()
        master._complaints.log(str(error) if isinstance(error, ClusterError) else repr(error))
        raise
    identity = master.identity()
    plan = Plan(
        settings=dict(master.options),
        workers=master.worker_count(),
        listeners=listeners,
        signals=master.meanings(),
        calls=master._calls,
        command=lambda name: master.commands.get(name).run(),
        callback=callback,
        predecessor=predecessor,
        taken=taken,
        tls=named_tls,
        base=master.base,
        usable_tls=servers.check_tls,
        same_code=_same_code(master, server),
        mended_by=master._mended_by,
    )
    orders = runtime.Orders(
        emitter=master._emitter,
        options=plan.settings,
        listeners=listeners,
        signals=plan.signals,
        base=master.base,
        identity=Identity(*identity) if identity is not None else None,
        log=master.log,
        provided=master._provided,
    )
    set_title(master.options["title"])
    gc.freeze()  # what is there now is never collected in a worker, so its pages stay shared
    gc.enable()
    supervisor = Supervisor(plan, master._emitter, master._complaints)
    master._supervisor = supervisor
    master._listeners = listeners
    try:
        code = supervisor.run()
    except ForkedChild as child:
        output.give_back()  # what an application prints is its own affair
        seat = child.seat
        child.__traceback__ = None
    else:
        master._supervisor = None
        master._over = True
        gc.unfreeze()
        if code:
            raise SystemExit(code)
        return master
    return _work(master, seat, orders, server)


def _fit_connections(master: Master, server: Any, descriptors: int) -> None:
    """Lower `max connections`, and say so, where a process may not have so many descriptors."""
    wanted: int = master.options["max connections"]
    fitting = servers.fitting_connections(server, wanted, descriptors)
    if fitting < wanted:
        master.options.set("max connections", fitting)
        master._complaints.say(
            f"max connections is {fitting} and not {wanted}: a process may have {descriptors} descriptors here "
            "(ulimit -n), of which each worker keeps some for itself and its application")


def _work(master: Master, seat: Any, orders: runtime.Orders, server: Any) -> Master:
    """In a forked child: become a worker and serve. Returns only in an abstract cluster."""
    worker = runtime.become(seat, orders, lambda worker: setattr(master, "worker", worker))
    with worker.fatal():
        for plugin in master._worker_plugins:
            plugin(master)
    if server is None:
        worker.serve_script()
        return master
    worker.serve(server)


def _same_code(master: Master, server: Any) -> str | None:
    """What a reload has to say when the new workers run code of the old ones; None when all of it is new."""
    if isinstance(server, Target):
        return None
    if isinstance(server, VirtualHosts) and server.named:
        hosts = [host for host, application in server.table.items() if not isinstance(application, str)]
        return None if not hosts else (
            f"reload: new code comes for {', '.join(map(repr, dict.fromkeys(server.named)))} only, as what serves "
            f"{', '.join(map(repr, hosts))} was given as an object, which lives in the master; restart brings new code")
    if server is None:
        return "reload: an abstract cluster's code is the script; restart brings new code"
    how = "it is preloaded" if master.options["preload"] else "it was given as an object, which lives in the master"
    return f"reload: the new workers run the same code as before, as {how}; restart brings new code"


def patch(say: Callable[[str], None]) -> None:
    """Apply gevent's monkey patch, once; say so when it comes too late for `ssl`."""
    if gevent.monkey.is_module_patched("socket"):
        return
    with warnings.catch_warnings(record=True) as caught, _without_package_metadata():
        warnings.simplefilter("always")
        gevent.monkey.patch_all()
    for warning in caught:
        text = str(warning.message)
        if "ssl" in text:
            say("ssl was imported before gevent could patch it, so https requests made by workers may fail with "
                "RecursionError; name the application by a string, or begin the script with "
                "`from gevent import monkey; monkey.patch_all()`")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@contextmanager
def _without_package_metadata() -> Iterator[None]:
    """Keep gevent from looking for subscribers to its patch in all packages' metadata.

    It looks 25 times, which is half of what the patch costs; subscribers in this process are still called.
    """
    original = gevent.events.notify_and_call_entry_points
    gevent.events.notify_and_call_entry_points = gevent.events.notify
    try:
        yield
    finally:
        gevent.events.notify_and_call_entry_points = original
