"""A gevent server object, made as without a cluster. The very object serves in each worker, on one shared socket.

    python examples/gevent_server.py
    curl localhost:3000
"""

import os

from gevent.pywsgi import WSGIServer

from cluster import cluster, debug


class Server(WSGIServer):
    """Subclasses keep what they change."""

    def get_environ(self):
        return {**super().get_environ(), "example.server": type(self).__name__}


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['example.server']} in process {os.getpid()}\n".encode()]


if __name__ == "__main__":
    server = Server(("0.0.0.0", int(os.environ.get("PORT", 3000))), app)
    cluster(server).use(debug()).start()  # without listen() it is the server's own address
