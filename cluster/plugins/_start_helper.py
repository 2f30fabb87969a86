"""What a helper process runs: ``python _start_helper.py MODULE DESCRIPTOR``; see `_errand`.

A script, because ``python -m`` would look for modules in the current directory first: a ``redis.py`` that lies there
would be run. It loads the very package that it belongs to, wherever the master has that from, and nothing else from
there.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Make this process a helper."""
    if not getattr(sys.flags, "safe_path", False):  # Python 3.11 and later: there is nothing to take away
        del sys.path[0]  # this folder, whose modules are not the `reload` or `mail` that somebody may import
    import importlib.util
    import os

    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = importlib.util.spec_from_file_location("cluster", os.path.join(folder, "__init__.py"))
    assert spec is not None and spec.loader is not None
    package = sys.modules["cluster"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    importlib.import_module("cluster.plugins._errand").work(sys.argv[1], int(sys.argv[2]))


if __name__ == "__main__":
    main()
