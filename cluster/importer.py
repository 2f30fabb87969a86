"""Finding and loading what the user named by a string: ``"package.module:name"``, ``"./path/app.py"``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

from .errors import ApplicationNotFound, did_you_mean

#: what is looked for, in this order, when a string names no attribute
DEFAULT_NAMES = ("app", "application", "server", "main")

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*\Z")


class Target(NamedTuple):
    """What a string names: a module or a file, and an expression in it (an attribute, or a call of one)."""

    text: str
    module: str
    path: str | None
    attribute: str | None
    #: positional and keyword arguments when it is a factory to be called
    call: tuple[list[Any], dict[str, Any]] | None = None


def parse(text: str, base: str) -> Target:
    """Take a server string apart. *base*: the directory that relative paths are taken against.

    Raises `ApplicationNotFound` when it is not of a form that could name something.
    """
    left, _, right = text.partition(":")
    attribute: str | None = None
    call = None
    if right or text.endswith(":"):
        attribute, call = _attribute(text, right)
    if "/" in left or left.endswith(".py"):
        path = os.path.normpath(os.path.join(base, left))
        name = os.path.splitext(os.path.basename(path))[0]
        return Target(text, re.sub(r"\W", "_", name), path, attribute, call)
    if not _DOTTED.match(left):
        raise ApplicationNotFound(
            f"{text!r} names no server: it takes 'package.module:name', 'package.module:factory()' or './path/app.py'"
        )
    return Target(text, left, None, attribute, call)


def _attribute(text: str, right: str) -> tuple[str, tuple[list[Any], dict[str, Any]] | None]:
    """The part behind the colon: a dotted name, or a call of one with literal arguments."""
    if _DOTTED.match(right):
        return right, None
    import ast  # only factories need it

    try:
        node = ast.parse(right, mode="eval").body
    except (SyntaxError, ValueError):
        node = None
    if isinstance(node, ast.Call):
        try:
            arguments = [ast.literal_eval(argument) for argument in node.args]
            keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
        except (ValueError, TypeError):
            raise ApplicationNotFound(f"{text!r}: a factory takes literal arguments only, as in 'app:make(debug=True)'"
                                      ) from None
        name = ast.unparse(node.func)
        if _DOTTED.match(name):
            return name, (arguments, keywords)
    raise ApplicationNotFound(f"{text!r}: {right!r} is neither a name nor a call of one, as in 'app:make_app()'")


def check(target: Target, base: str) -> None:
    """Make sure that the module of *target* can be found, without importing any of it, parent packages neither.

    Raises `ApplicationNotFound`, saying what was looked for and where.
    """
    if target.path is not None:
        if not os.path.isfile(target.path):
            what = "is a directory" if os.path.isdir(target.path) else "no such file"
            raise ApplicationNotFound(f"{target.text!r}: {what}: {target.path}")
        return
    with search_path(base):
        parts = target.module.split(".")
        spec: ModuleSpec | None = None
        for depth, _ in enumerate(parts, 1):
            name = ".".join(parts[:depth])
            spec = _find(name, spec)
            if spec is None:
                raise ApplicationNotFound(
                    f"{target.text!r}: no module named {name!r}{_similar_file(base, name)} "
                    f"(looked in {base} and sys.path)"
                )


def _find(name: str, parent: ModuleSpec | None) -> ModuleSpec | None:
    if "." in name and (parent is None or parent.submodule_search_locations is None):
        return None
    path = list(parent.submodule_search_locations or ()) if parent is not None else None
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = find_spec(name, path) if find_spec is not None else None
        if spec is not None:
            return spec
    return None


def _similar_file(base: str, name: str) -> str:
    if "." in name:
        return ""
    try:
        names = [entry[:-3] for entry in os.listdir(base) if entry.endswith(".py")]
    except OSError:
        return ""
    return did_you_mean(name, names)


def load(target: Target, base: str) -> Any:
    """Import the module of *target* and return the object that it names, calling the factory when it is one.

    Raises `ApplicationNotFound` for a name that the module does not have; what the module itself raises, as it is.
    """
    add_to_path(base)
    if target.path is not None:
        add_to_path(os.path.dirname(target.path))
        module = _load_file(target.module, target.path)
    else:
        module = importlib.import_module(target.module)
    if target.attribute is None:
        for name in DEFAULT_NAMES:
            if hasattr(module, name):
                return getattr(module, name)
        raise ApplicationNotFound(
            f"{target.text!r}: the module has none of {', '.join(DEFAULT_NAMES)}; name it, as in '{target.text}:name'"
        )
    found: Any = module
    for part in target.attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            names = [name for name in dir(found) if not name.startswith("__")]
            raise ApplicationNotFound(f"{target.text!r}: no attribute {part!r}{did_you_mean(part, names)}") from None
    if target.call is None:
        return found
    if not callable(found):
        raise ApplicationNotFound(f"{target.text!r}: {target.attribute} is not callable, so it makes no application")
    arguments, keywords = target.call
    return found(*arguments, **keywords)


def _load_file(name: str, path: str) -> ModuleType:
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) and os.path.samefile(str(loaded.__file__), path):
        return loaded
    if loaded is not None:
        name = f"_cluster_app_{name}"  # a library has that name already; it must not be replaced under its users
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ApplicationNotFound(f"{path!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def add_to_path(directory: str) -> None:
    """Put *directory* first on ``sys.path`` unless it is there already."""
    if directory not in sys.path:
        sys.path.insert(0, directory)


@contextmanager
def search_path(directory: str) -> Iterator[None]:
    """Look in *directory* first, for the time of the block."""
    before = list(sys.path)
    add_to_path(directory)
    try:
        yield
    finally:
        sys.path[:] = before
