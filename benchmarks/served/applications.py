"""The applications that `http.py` has each server serve."""

from __future__ import annotations

import json
import os

HELLO = b"Hello, World!"
JSON = json.dumps([{"id": number, "name": f"item {number}", "tags": ["a", "b"]} for number in range(180)]).encode()


def app(environ, start_response):
    """One application for all loads, told apart by the path."""
    path = environ["PATH_INFO"]
    if path == "/":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
        return [HELLO]
    if path == "/json":
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(JSON)))])
        return [JSON]
    if path == "/post":
        size = str(len(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))).encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(size)))])
        return [size]
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (b"x" * 100 for _ in range(10))
    if path == "/sleep":
        if os.environ.get("COOPERATIVE"):
            from gevent import sleep
        else:
            from time import sleep
        sleep(0.005)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
        return [HELLO]
    start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", "0")])
    return []


def serve_ours(port: int) -> None:
    """Our server by itself, counting into memory as it does in a worker."""
    import mmap
    import socket

    from cluster import counters
    from cluster.http import HTTPServer

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(4096)
    memory = memoryview(mmap.mmap(-1, counters.SIZE * 8)).cast("Q")
    HTTPServer(listener, app, counters=memory).serve_forever()


def serve_pywsgi(port: int) -> None:
    """gevent's own server; with TCP_NODELAY, without which each response waits for an acknowledgement."""
    import socket

    from gevent.pywsgi import WSGIServer

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(4096)
    listener.setblocking(False)
    WSGIServer(listener, app, log=None, environ={"SERVER_NAME": "localhost"}).serve_forever()


def serve_bjoern(port: int) -> None:
    import bjoern

    bjoern.run(app, "127.0.0.1", port)


if __name__ == "__main__":
    import sys

    {"ours": serve_ours, "pywsgi": serve_pywsgi, "bjoern": serve_bjoern}[sys.argv[1]](int(sys.argv[2]))
