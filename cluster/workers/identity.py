"""Whom a worker runs as."""

from __future__ import annotations

import os
from typing import NamedTuple


class Identity(NamedTuple):
    """Whom a worker runs as: user id, group id, and the name whose supplementary groups it takes."""

    uid: int | None
    gid: int | None
    name: str | None


def drop_privileges(identity: Identity) -> None:
    """Become another user and group for good, supplementary groups too. Raises OSError."""
    if identity.gid is not None:
        if os.geteuid() == 0:
            if identity.name is not None:
                os.initgroups(identity.name, identity.gid)
            else:
                os.setgroups([identity.gid])
        os.setgid(identity.gid)
    if identity.uid is not None:
        os.setuid(identity.uid)
