"""Servers and clients for the tests of ``cluster.http``, all in one process on gevent's hub."""

from __future__ import annotations

import socket

import gevent
import http_helpers as helpers
import pytest
from gevent import socket as gsocket

from cluster.http import HTTPServer


@pytest.fixture(autouse=True)
def deadline():
    """No test may hang: a minute is more than any needs, except where it says otherwise."""
    with gevent.Timeout(60):
        yield


@pytest.fixture
def serve():
    """Start a server for an application: ``serve(app, **options)`` returns a `helpers.Served`."""
    running: list[helpers.Served] = []

    def start(app, *, family=socket.AF_INET, address=None, binding=None, **options):
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address if address is not None else ("127.0.0.1", 0))
        listener.listen(1024)
        errors: list = []
        options.setdefault("on_error", lambda info, environ: errors.append(info[1]))
        server = HTTPServer(None, app, **options)
        bound = server.add_listener(listener, **(binding or {}))
        server.start_accepting()
        served = helpers.Served(server, listener, bound, errors)
        running.append(served)
        return served

    yield start
    for served in running:
        served.server.close()
        served.listener.close()
    gevent.sleep(0)


@pytest.fixture
def connect():
    """Open connections that are closed after the test: ``connect(served)``."""
    opened = []

    def start(served):
        sock = gsocket.create_connection(served.address) if served.port else _unix(served)
        sock.settimeout(20)
        opened.append(sock)
        return sock

    def _unix(served):
        sock = gsocket.socket(socket.AF_UNIX)
        sock.connect(served.listener.getsockname())
        return sock

    yield start
    for sock in opened:
        sock.close()
