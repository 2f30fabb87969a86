"""The server in a process of its own, for tests: ``http_served.py NAME``; prints the port, ends on SIGTERM."""

from __future__ import annotations

import os
import sys

sys.path[:] = [path for path in sys.path if not path.endswith(os.path.join("tests", "http"))]
if os.environ.get("PATCHED"):
    from gevent import monkey

    monkey.patch_all()

import json  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import tempfile  # noqa: E402

from cluster.http import HTTPServer, Limits, Timeouts  # noqa: E402

LINES = [b"line %d\n" % number for number in range(5)]


def flask():
    from flask import Flask, Response, request

    app = Flask("served")
    app.get("/hello/<name>", endpoint="hello")(lambda name: f"hello {name} {request.args['x']}")
    app.post("/form", endpoint="form")(lambda: f"{request.form['a']} {request.form['b']}")
    app.post("/echo", endpoint="echo")(lambda: request.get_data())
    app.get("/stream", endpoint="stream")(lambda: Response(iter(LINES)))
    app.get("/boom", endpoint="boom")(lambda: 1 / 0)
    return app


def django():
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse, StreamingHttpResponse
    from django.urls import path

    settings.configure(ROOT_URLCONF="urls", ALLOWED_HOSTS=["*"], SECRET_KEY="x", LOGGING_CONFIG=None)
    urls = type(sys)("urls")
    urls.urlpatterns = [
        path("hello/<name>", lambda request, name: HttpResponse(f"hello {name} {request.GET['x']}")),
        path("form", lambda request: HttpResponse(f"{request.POST['a']} {request.POST['b']}")),
        path("echo", lambda request: HttpResponse(request.body)),
        path("stream", lambda request: StreamingHttpResponse(iter(LINES))),
        path("boom", lambda request: 1 / 0),
    ]
    sys.modules["urls"] = urls
    return get_wsgi_application()


def falcon():
    import falcon

    class Resource:
        def __init__(self, function):
            self.on_get = self.on_head = self.on_post = function

    app = falcon.App()

    def hello(request, response, name):
        response.text = f"hello {name} {request.get_param('x')}"

    def form(request, response):
        seen = request.get_media()
        response.text = f"{seen['a']} {seen['b']}"

    def echo(request, response):
        response.data = request.bounded_stream.read()

    def stream(request, response):
        response.stream = iter(LINES)

    def boom(request, response):
        raise ZeroDivisionError

    app.add_route("/hello/{name}", Resource(hello))
    for name, function in (("form", form), ("echo", echo), ("stream", stream), ("boom", boom)):
        app.add_route("/" + name, Resource(function))
    return app


def bottle():
    import bottle

    app = bottle.Bottle()
    bottle.BaseRequest.MEMFILE_MAX = 1_000_000
    app.route("/hello/<name>", callback=lambda name: f"hello {name} {bottle.request.query.x}", method=["GET", "HEAD"])
    app.post("/form", callback=lambda: f"{bottle.request.forms.a} {bottle.request.forms.b}")
    app.post("/echo", callback=lambda: bottle.request.body.read())
    app.get("/stream", callback=lambda: iter(LINES))
    app.get("/boom", callback=lambda: 1 / 0)
    return app


def httpbin():
    from httpbin import app

    return app


def echo(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/who":
        body = json.dumps(
            {
                "addr": environ["REMOTE_ADDR"],
                "scheme": environ["wsgi.url_scheme"],
                "host": environ["HTTP_HOST"],
                "back": BACK(environ),
            }
        ).encode()
    elif path == "/echo":
        body = environ["wsgi.input"].read()
    else:
        start_response("200 OK", [])
        return (b"x" * 100 for _ in range(5))
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def BACK(environ):
    """Which connection a request came on: the server's own count of them."""
    return SERVER.counters[1]


def large(environ, start_response):
    """A gigabyte each way."""
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/sink":
        total = 0
        while piece := environ["wsgi.input"].read(65536):
            total += len(piece)
        return [str(total).encode()]
    if path == "/file":
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
        file.truncate(1 << 30)
        file.seek(0)
        return environ["wsgi.file_wrapper"](file)
    return (b"x" * 65536 for _ in range(16384))


def attacked(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/big":
        return [b"x" * 1_000_000]
    if path == "/":
        environ["wsgi.input"].read()
    return [str(SERVER.active).encode()]


def hello(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


def main():
    global SERVER
    name = sys.argv[1]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20000) if hard > 0 else 20000, hard))
    app = {"echo-proxied": echo, "echo": echo, "attacked": attacked, "idle": hello, "echo1": large}.get(
        name
    ) or globals()[name]()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    if name == "attacked":
        # so that a response is larger than what the kernel takes of it at once
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    limits = Limits(timeouts=Timeouts(keep_alive=60)) if name == "idle" else Limits()
    SERVER = HTTPServer(None, app, limits=limits, trusted_proxies="127.0.0.1", on_error=lambda info, environ: None)
    # httpbin takes chunked bodies only from servers whose name it knows
    environ = {"SERVER_SOFTWARE": "gunicorn/like"} if name == "httpbin" else None
    SERVER.add_listener(listener, proxy_protocol=name == "echo-proxied", environ=environ)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    print(listener.getsockname()[1], flush=True)
    SERVER.serve_forever()


if __name__ == "__main__":
    main()
