"""Server strings: rows K3, K7."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster.errors import ApplicationNotFound
from cluster.importer import check, load, parse


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A directory with modules; sys.path and sys.modules are put back."""
    (tmp_path / "made_up_package").mkdir()
    (tmp_path / "made_up_package" / "__init__.py").write_text("raise AssertionError('a parent was imported')\n")
    (tmp_path / "made_up_package" / "inner.py").write_text("")
    (tmp_path / "made_up.py").write_text(
        "class application:\n    inner = 5\nserver = 2\ndef make(*args, **kwargs): return args, kwargs\n")
    (tmp_path / "json.py").write_text("app = 'a file named like a library'\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return str(tmp_path)


@pytest.mark.parametrize("text", [
    "", ":", ":app", "a b", "a..b", "a:b c", "a:b[0]", "a:f(x)", "a:f(", "1a", "a:lambda: 0",
])
def test_k7_not_a_server_string(text: str) -> None:
    """A string that cannot name anything is refused."""
    with pytest.raises(ApplicationNotFound):
        parse(text, "/")


def test_k3_attributes_factories_and_defaults(base: str) -> None:
    """K3: the default names in their order, dotted attributes, factories with literal arguments."""
    assert load(parse("made_up", base), base).inner == 5
    assert load(parse("made_up:application.inner", base), base) == 5
    assert load(parse("made_up:make()", base), base) == ((), {})
    assert load(parse("made_up:make('a', [1, {'b': None}], debug=True)", base), base) == (
        ("a", [1, {"b": None}]), {"debug": True})
    for text, words in (("made_up:servr", "did you mean 'server'"), ("made_up:server()", "not callable")):
        with pytest.raises(ApplicationNotFound, match=words):
            load(parse(text, base), base)


def test_k3_a_file_does_not_replace_a_library(base: str) -> None:
    """K3: ./json.py is that file, and the library of that name stays what it was."""
    import json

    assert load(parse("./json.py", base), base) == "a file named like a library"
    assert sys.modules["json"] is json


def test_k7_found_without_importing(base: str) -> None:
    """K7: the module is looked for without importing any of it, parent packages neither."""
    check(parse("made_up_package.inner:app", base), base)
    for text in ("made_up_package.missing", "made_up.inner", "no_such_module", "./missing.py", "./made_up_package/"):
        with pytest.raises(ApplicationNotFound):
            check(parse(text, base), base)
    assert base not in sys.path
