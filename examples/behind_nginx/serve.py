"""A WSGI application on a unix socket, with nginx in front of it.

    cd examples/behind_nginx
    python serve.py &
    nginx -p . -e stderr -c nginx.conf -g 'daemon off;'
    curl localhost:8080
"""

import os

from cluster import cluster, debug


def app(environ, start_response):
    who = environ["REMOTE_ADDR"] or "nobody knows whom"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"Hello {who}, this is process {os.getpid()}\n".encode()]


# trusted_proxies: whoever connects to the socket is nginx, and says who the client is.
# mode: nginx runs its workers as a user of its own, and to connect is to write. In production give the file to
# that user instead: owner="www-data", mode=0o600
cluster(app).set(trusted_proxies="unix").use(debug()).listen("unix:app.sock", mode=0o666)
