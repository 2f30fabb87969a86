"""The documentation says what the code says, and its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from cluster import Master
from cluster.program import serve
from cluster.signals import DEFAULT_MEANING

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


def test_generated_pages_are_fresh() -> None:
    """docs/settings.md and docs/events.md are what docs/generate.py makes of the tables in the code."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.stale() == [], "run python docs/generate.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Links to files of this repository, and mentions of its examples and pages."""
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    mentions = re.findall(r"\b((?:examples|docs|benchmarks)/[\w./-]+\.\w+)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in mentions if not (ROOT / name).exists()]
    assert missing == []


def test_the_guide_names_every_option_and_operation() -> None:
    """What `cluster serve` takes and what a master can be asked to do."""
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    options = [max(option.opts, key=len) for option in serve.params if option.param_type_name == "option"]
    assert [name for name in options if name not in guide] == []
    assert [c.name for c in Master().commands if f"| `{c.name.replace(' ', '_')}(" not in guide] == []


def test_the_page_of_signals_has_the_map() -> None:
    """Each signal with the command that it means."""
    page = (ROOT / "docs" / "signals.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("|")]
    told = {f"SIG{name.strip()}": row[2].strip(" `") for row in rows if len(row) == 5 for name in row[1].split(",")}
    assert {name: told.get(name) for name in DEFAULT_MEANING} == DEFAULT_MEANING
