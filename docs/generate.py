"""Writes docs/settings.md and docs/events.md from the tables in the code.

    python docs/generate.py           write them
    python docs/generate.py --check   exit code 1 when one is stale
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cluster.events import CATALOGUE
from cluster.settings import SETTINGS

DOCS = Path(__file__).parent
MADE = "<!-- Made by docs/generate.py; change the table in {} instead. -->"


def settings() -> str:
    """The page about settings."""
    rows = [
        (f"`{setting.name}`", shown(setting.default), setting.unit, setting.help) for setting in SETTINGS.values()
    ]
    return f"""{MADE.format("cluster/settings.py")}
# Settings

Set them with `set("restart threshold", 0)`, by keyword with underscores for spaces (`set(restart_threshold=0)`),
several at once (`set(workers=4, timeout=30)`, or a mapping), or from the command line:
`cluster serve app:app --set timeout=30`. The last value given counts. `options` is a mapping of all of them,
`has(name)` says whether one was set.

A value of the wrong type is refused at once, in one line that says what would be right. Texts are taken where they can
be read as the value (`"4"`, `"0.5"`, `"true"`), as command lines and environments have nothing else. Names that are not
in this table are kept, for plugins, with a warning when they are close to a known one.

{table(("Name", "Default", "Unit", "What it does"), rows)}"""


def events() -> str:
    """The page about events."""
    rows = [
        (f"`{event.name}`", ", ".join(f"`{name}`" for name in event.payload) or "-", event.where, event.help)
        for event in CATALOGUE.values()
    ]
    return f"""{MADE.format("cluster/events.py")}
# Events

    @master.on("worker killed")
    def tell(worker):
        print(f"worker {{worker.id}} died: {{worker.ending}}, up {{worker.uptime:.1f}} s")

`on` takes an event and a handler, or is a decorator; `once` is for the next time only; `off(name)` forgets all
handlers, `off(name, handler)` one; `emit(name, ...)` makes an event of your own. Handlers are called in the order in
which they were added, with the payload of the table. In names, underscores and spaces mean the same.

Handlers in the master run one after the other in a greenlet of their own, apart from the supervisor: one that blocks
delays other handlers, never workers. The supervisor waits for them at three events only: `start`, `restarting` and
`close`. A handler that raises is reported on stderr with its name and the event; the others still run. Handlers of
`before fork` are the exception: they run in the supervisor itself, right before the fork, and must not block.

Handlers that the script added for the events of the master are dropped in each worker. What should happen in a worker
is added there: by `cluster.worker().on("close", ...)` in the application, or by a plugin with `enable_in_worker`.
`worker.send(name, ...)` in the master emits an event of your own in that worker.

{table(("Event", "Given to handlers", "Where", "When"), rows)}

`worker` is a `WorkerHandle` in the master: `id` (its slot, the same after a respawn), `uid` (never repeats), `pid`,
`generation`, `uptime` and `boot_time` in seconds, and once it has ended `exit_code` or `signal`, or both in words as
`ending`. In a worker it is the `Worker` of this process.

## Order

At the start: `start`, the callback of `listen`, `worker` for each, `listening`, `worker connected` for each,
`worker ready` for each, `ready`. From `listening` on, connections are taken.

At the end: `closing`, `kill`, `worker removed` for each, `close`.

After a restart the new master emits all of the start, and then `restart`.
"""


def shown(default: Any) -> str:
    """A default as one would write it."""
    if default is None:
        return "-"
    if isinstance(default, float):
        return f"`{default:g}`"
    return f'`"{default}"`' if isinstance(default, str) else f"`{default!r}`"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    cells = [tuple(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])


PAGES = {"settings.md": settings, "events.md": events}


def stale() -> list[str]:
    """Names of pages that are not what the code says."""
    found = []
    for name, page in PAGES.items():
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != page().rstrip("\n") + "\n":
            found.append(name)
    return found


def main() -> None:
    """Write the pages, or check them."""
    if sys.argv[1:] == ["--check"]:
        if stale():
            sys.exit(f"stale: {', '.join(stale())}; run python docs/generate.py")
        return
    for name, page in PAGES.items():
        (DOCS / name).write_text(page().rstrip("\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
