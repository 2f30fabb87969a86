"""Telling a service manager how we are, by its notify socket (sd_notify(3))."""

from __future__ import annotations

import os

import gevent.monkey


def notify(*lines: str) -> bool:
    """Send ``READY=1``, ``MAINPID=…`` and the like; False when nobody asked for it or it cannot be reached."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or address[0] not in "/@":
        return False
    if address[0] == "@":
        address = "\0" + address[1:]
    socket, family, kind = gevent.monkey.get_original("socket", ["socket", "AF_UNIX", "SOCK_DGRAM"])
    try:
        with socket(family, kind) as sender:
            sender.setblocking(False)  # a manager that does not read must not stop a master
            sender.sendto("\n".join(lines).encode(), address)
    except OSError:
        return False
    return True
