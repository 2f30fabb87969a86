"""The bundled plugins, one file each, and finding plugins by name.

``cluster.NAME`` is the function NAME of ``cluster/plugins/NAME.py``, or what an installed package registered as NAME in
the entry-point group ``cluster.plugins``.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "cluster.plugins"


def bundled() -> list[str]:
    """Names of the plugins in this folder."""
    return sorted(_modules(os.path.dirname(__file__)))


def own_modules() -> set[str]:
    """Names of the modules and folders of the package itself."""
    return _modules(os.path.dirname(os.path.dirname(__file__)))


def _modules(folder: str) -> set[str]:
    """Names of the modules and packages in a folder, which may be one in a zip file."""
    return {found.name for found in pkgutil.iter_modules([folder]) if not found.name.startswith("_")}


def installed() -> dict[str, EntryPoint]:
    """Plugins of installed packages by name.

    Raises `ConfigurationError` for two of one name, or one named like something of ours.
    """
    from importlib.metadata import entry_points  # slow, and most clusters use bundled plugins only

    found: dict[str, EntryPoint] = {}
    ours = own_modules() | {"cluster", "worker", "tcp", "job", "version", "Master"}
    for entry in entry_points(group=GROUP):
        if entry.name in bundled():
            raise ConfigurationError(f"plugin {entry.name!r} of {_package(entry)} is named like a bundled one")
        if entry.name in ours:
            raise ConfigurationError(
                f"plugin {entry.name!r} of {_package(entry)} is named like cluster.{entry.name}; it needs another name")
        other = found.get(entry.name)
        if other is not None and (other.value, _package(other)) != (entry.value, _package(entry)):
            raise ConfigurationError(f"two plugins are named {entry.name!r}: {other.value} of {_package(other)} and "
                                     f"{entry.value} of {_package(entry)}; remove one of them")
        found[entry.name] = entry
    return found


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unknown package"


def names() -> list[str]:
    """Names of all plugins; those that clash are left out here and refused when they are asked for."""
    try:
        return sorted({*bundled(), *installed()})
    except ConfigurationError:
        return bundled()


def find(name: str) -> Any:
    """The plugin *name*. Raises AttributeError when there is none, `ConfigurationError` when there are two."""
    if name in bundled():
        return getattr(importlib.import_module(f".{name}", __name__), name)
    entry = installed().get(name)
    if entry is not None:
        return entry.load()
    hint = did_you_mean(name, bundled())
    raise AttributeError(f"module 'cluster' has no attribute {name!r} and no plugin of that name{hint}")
