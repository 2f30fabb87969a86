"""The layout of the package, read from its imports: who may import whom (docs/architecture.md tells why)."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "cluster"

#: from the bottom up: a module may import from its own layer and from those before it
LAYERS: dict[str, set[str]] = {
    "pure": {"errors", "states", "events", "settings", "importer", "kinds", "respawn", "rollout", "commands",
             "narration", "reported", "vhosts", "counters"},
    "operating system": {"system", "output", "signals", "addresses", "listeners", "channel", "scoreboard", "host",
                         "notify", "certificates"},
    "plumbing": {"inbox", "announcer", "results", "complaints", "extending", "uncaught"},
    "actors": {"workers", "workers.handle", "workers.identity", "workers.failures", "workers.repeats", "workers.forked",
               "workers.script", "workers.log", "workers.termination", "workers.runtime", "servers", "servers.context",
               "servers.accepting", "servers.stream", "servers.wsgi", "servers.http", "http", "calls",
               "crew", "reloading", "sizing", "renewal", "handover",
               "handover.protocol", "handover.outgoing", "handover.incoming"},
    "wiring": {"plan", "supervisor", "launch", "operations", "master"},
    "surfaces": {"", "__main__", "program", "plugins", "remote", "operating", "operators", "console"},
}

#: packages that are one thing to the rest, with what of ours they may import
CLOSED = {
    "servers": {"errors", "kinds", "listeners", "scoreboard", "counters", "http"},
    "http": {"errors", "counters", "output"},
    # helpers that plugins share begin with an underscore; the others do not know each other
    "plugins": {"", "errors", "commands", "results", "signals", "host", "system", "narration", "remote", "operating",
                "channel", "counters", "output", "reported"},
}

#: what a pure module may import from the standard library: nothing that reads, writes or waits
PURE_IMPORTS = {"__future__", "ast", "collections", "dataclasses", "difflib", "enum", "functools", "math", "re", "sys",
                "types", "typing", "warnings"}
#: `settings` needs os.fspath; `importer` looks for modules and loads them: that is its role, and all it touches
PURE_EXTRA = {"settings": {"os"}, "importer": {"os", "importlib", "contextlib"}}
#: functions of `os` that a pure module may name
HARMLESS = {"fspath", "PathLike", "path", "sep"}

#: who runs in a process of its own, where waiting holds up nobody: it asks a cluster, and is none
CLIENTS = {"remote", "operating", "operators", "console"}
#: who tells moments, not durations
WALL_CLOCK = {"plugins.stats", "plugins.reload", "plugins.redis_log"}

#: what only `system` does
SYSTEM_ONLY = {"os.kill", "os.killpg", "os.fork", "os.waitpid", "os.wait", "os._exit", "os.execv", "os.execve",
               "os.execvp", "os.execvpe", "os.posix_spawn", "time.sleep"}
#: what nothing does, with what to use
NEVER = {
    "time.time": "the monotonic clock",
    "os.close": "system.close_descriptor: the patched os.close is deferred by the hub",
    "os.system": "System.execute",
    "print": "an event, Complaints, or output.say",
}
#: a Date field and a log line hold the time of day
PERMITTED = {"http.access_log": {"time.time"}, "http.response": {"time.time"}}
#: modules that would start a thread, or a second event loop, in the master
FORBIDDEN_IMPORTS = {"subprocess", "multiprocessing", "asyncio", "concurrent", "watchdog", "watchfiles"}


def name_of(path: Path) -> str:
    """``workers.handle`` for cluster/workers/handle.py, ``workers`` for its ``__init__.py``."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree_of(module: str) -> ast.Module:
    """The module's syntax tree, without what is there for type checkers only."""

    class Runtime(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

    return Runtime().visit(ast.parse(FILES[module].read_text(encoding="utf-8")))


def imports_of(module: str) -> tuple[set[str], set[str]]:
    """Our own modules that *module* imports, anywhere in its code, and the top-level names of all others."""
    ours, others = set(), set()
    package = module.split(".") if FILES[module].name == "__init__.py" else module.split(".")[:-1]
    package = [part for part in package if part]
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            others.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            start = ".".join(part for part in base if part)
            for alias in node.names:
                full = f"{start}.{alias.name}".strip(".")
                ours.add(full if full in FILES else start)
    assert "cluster" not in others, f"{module} imports the package by its name; use a relative import"
    return ours - {module}, others


def used_in(tree: ast.AST) -> list[tuple[int, str]]:
    """Every name and attribute that is used, dotted, with its line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            found.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def layer_of(module: str) -> int:
    """How high up it is."""
    return next(height for height, names in enumerate(LAYERS.values()) if module in names)


def test_every_module_has_a_place() -> None:
    """A new module is put into a layer here, and into docs/architecture.md."""
    placed = set().union(*LAYERS.values())
    assert {name for name in FILES if name not in placed and not name.startswith(("http.", "plugins."))} == set()
    assert placed - set(FILES) == set()


def place(module: str) -> str:
    """The name by which the tables know a module: those of `http` and of `plugins` are alike."""
    return next((whole for whole in ("http", "plugins") if module.startswith(whole + ".")), module)


@pytest.mark.parametrize("module", FILES)
def test_imports_only_from_its_own_layer_and_below(module: str) -> None:
    """The main rule."""
    above = {other for other in imports_of(module)[0] if layer_of(place(other)) > layer_of(place(module))}
    if module == "":
        return
    assert above == set()


@pytest.mark.parametrize("module", FILES)
def test_closed_packages(module: str) -> None:
    """Servers, our HTTP server and plugins know few of the others; plugins do not know each other."""
    whole = module.partition(".")[0]
    ours = imports_of(module)[0]
    if whole in CLOSED:
        inside = {other for other in ours if other.partition(".")[0] == whole
                  and (whole != "plugins" or other == "plugins" or other.partition(".")[2].startswith("_"))}
        assert {other for other in ours - inside if other.partition(".")[0] not in CLOSED[whole]} == set()


def test_the_two_sides_of_a_worker_do_not_know_each_other() -> None:
    """One object on both sides of a fork is neither."""
    assert "workers.runtime" not in imports_of("workers.handle")[0]
    assert "workers.handle" not in imports_of("workers.runtime")[0]


@pytest.mark.parametrize(("package", "users"), [("servers", {"workers.runtime", "launch"}), ("http", {"servers"})])
def test_who_may_use_them(package: str, users: set[str]) -> None:
    """Only the worker process serves (and `launch` loads what it will need); only the adapters know our HTTP server."""
    found = {
        module for module in FILES for other in imports_of(module)[0]
        if other.partition(".")[0] == package and module.partition(".")[0] != package
    }
    assert {module for module in found if module not in users and module.partition(".")[0] not in users} == set()


def test_only_surfaces_know_plugins() -> None:
    """A plugin can be taken away, and nothing but its own feature is missing."""
    users = {module for module in FILES if any(o.startswith("plugins") for o in imports_of(module)[0])}
    assert {place(module) for module in users} <= LAYERS["surfaces"]


@pytest.mark.parametrize("module", sorted(LAYERS["pure"]))
def test_pure_modules_do_no_input_or_output(module: str) -> None:
    """They are tested without processes: values in, values out."""
    others = imports_of(module)[1]
    assert others - PURE_IMPORTS - PURE_EXTRA.get(module, set()) == set()
    if module != "importer":
        used = {name for _, name in used_in(tree_of(module))}
        assert not used & {"open", "input", "print", "sys.stdout", "sys.stderr", "sys.stdin"}
        assert {name for name in used if name.startswith("os.") and name.split(".")[1] not in HARMLESS} == set()


@pytest.mark.parametrize("module", FILES)
def test_forbidden_things(module: str) -> None:
    """What has a better way here."""
    tree = tree_of(module)
    bare = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type is None]
    assert bare == [], "bare except"
    permitted = PERMITTED.get(module, set()) | ({"time.time"} if module in WALL_CLOCK else set())
    found = [(line, name, NEVER[name]) for line, name in used_in(tree) if name in NEVER and name not in permitted]
    if module != "system" and module not in CLIENTS:
        found += [(line, name, "System") for line, name in used_in(tree) if name in SYSTEM_ONLY]
    assert found == []
    assert imports_of(module)[1] & FORBIDDEN_IMPORTS == set()


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.name)
def test_tests_wait_for_facts(path: Path) -> None:
    """No sleeps: they are too short on a busy machine and too long on an idle one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # the tests of `http` run clients that trickle and applications that take their time in their own process
    forbidden = {"time.sleep"} if path.parent.name == "http" else {"time.sleep", "gevent.sleep"}
    assert [line for line, name in used_in(tree) if name in forbidden] == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    """Row K2: the names are there, what is behind them comes when it is used."""
    ours, others = set(), set()
    for node in tree_of("").body:
        if isinstance(node, ast.ImportFrom):
            (ours if node.level else others).add(node.module)
        elif isinstance(node, ast.Import):
            others |= {alias.name for alias in node.names}
    assert ours == set()
    assert {str(name) for name in others} <= sys.stdlib_module_names
