"""docs/settings.md is the table of `Settings`, and `Overrides` are its fields."""

from __future__ import annotations

import typing
from pathlib import Path

import attrs

from zmdp_trio._settings import DEFAULTS, Overrides, Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


def documented() -> dict[str, tuple[str, str, str, str]]:
    """Read the table: setting to default, unit, who, and meaning."""
    rows = [line.strip("| ").split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    assert rows[0] == ["Setting", "Default", "Unit", "Who", "Meaning"]
    assert all(len(row) == 5 for row in rows)
    return {name: (default, unit, who, meaning) for name, default, unit, who, meaning in rows[1:]}


def test_every_setting_is_documented_in_order() -> None:
    assert list(documented()) == [field.name for field in attrs.fields(Settings)]


def test_defaults() -> None:
    wrong = {name: row[0] for name, row in documented().items() if float(row[0]) != getattr(DEFAULTS, name)}
    assert not wrong


def test_times_are_in_seconds_and_nothing_else_is() -> None:
    types = typing.get_type_hints(Settings)
    assert {name: row[1] == "seconds" for name, row in documented().items()} == {
        field.name: types[field.name] is float for field in attrs.fields(Settings)
    }


def test_every_row_says_whose_setting_counts_and_what_it_means() -> None:
    assert all(set(who.split()) <= set("bwcg") and who and meaning for _, _, who, meaning in documented().values())


def test_the_command_line_knows_whose_a_setting_is_and_what_it_counts() -> None:
    assert {name: (who.replace(" ", ""), unit == "bytes") for name, (_, unit, who, _) in documented().items()} == {
        field.name: (field.metadata["who"], field.metadata["unit"] == "bytes") for field in attrs.fields(Settings)
    }


def test_overrides_are_the_fields_of_settings() -> None:
    assert typing.get_type_hints(Overrides) == {
        name: hint
        for name, hint in typing.get_type_hints(Settings).items()
        if name in {field.name for field in attrs.fields(Settings)}
    }
