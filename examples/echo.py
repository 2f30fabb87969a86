"""A TCP server that says back what it hears. `handler(socket, address)` runs in a greenlet of its own per connection.

    python examples/echo.py
    nc localhost 3000
"""

import os

from cluster import cluster, debug, tcp


def echo(socket, address):
    while data := socket.recv(65536):
        socket.sendall(data)


if __name__ == "__main__":
    cluster(tcp(echo)).use(debug()).listen(int(os.environ.get("PORT", 3000)))
