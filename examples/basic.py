"""The smallest server: one WSGI function on all cores.

    python examples/basic.py
    curl localhost:3000

Then `kill -9` one of the workers, send the master SIGHUP, press Ctrl-C, and see what is said.
"""

import os

from cluster import cluster, debug


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"Hello from process {os.getpid()}\n".encode()]


if __name__ == "__main__":
    cluster(app).use(debug()).listen(int(os.environ.get("PORT", 3000)))
