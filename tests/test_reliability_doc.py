"""docs/reliability.md names tests and programs that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "reliability.md").read_text()
TESTS = sorted(set(re.findall(r"\b((?:core|shell|integration)/\w+\.py)(?:::(\w+))?", TEXT)))
PROGRAMS = sorted(set(re.findall(r"python -m (chaos\.\w+)", TEXT)))
TARGETS = sorted(set(re.findall(r"`make (\w+)`", TEXT)))


def test_every_promise_is_shown_by_something() -> None:
    rows = [row.split("|") for row in TEXT.splitlines() if row.startswith("| ") and "shown by" not in row]
    assert len(rows) > 25
    assert [row[1] for row in rows if not re.search(r"\.py", row[3])] == []


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_it_exists(file: str, name: str) -> None:
    code = (ROOT / "tests" / file).read_text()
    assert not name or re.search(rf"^((async )?def|class) {name}\(", code, re.MULTILINE)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_program_exists(program: str) -> None:
    assert (ROOT / f"{program.replace('.', '/')}.py").exists()


@pytest.mark.parametrize("target", TARGETS)
def test_the_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
