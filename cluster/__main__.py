"""``cluster`` and ``python -m cluster``: the way into the command line."""

from __future__ import annotations

import gc


def main() -> None:
    """Entry point."""
    # importing makes no garbage, and looking for it is a twentieth of the start; `launch` turns it on again
    gc.disable()
    from .program import main as run

    run()


if __name__ == "__main__":
    main()
