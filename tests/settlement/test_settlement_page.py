"""docs/settlement.md says what the program does: its tables are those of the code, its numbers those of the layouts."""

from __future__ import annotations

import re

import pytest

from koii_p2p.settlement import layouts
from koii_p2p.settlement.instructions import Tag
from koii_p2p.settlement.refusals import ProgramError
from scripts import make_settlement_page as maker


def test_the_tables_are_up_to_date() -> None:
    text = maker.PAGE.read_text()
    assert maker.page(text) == text, "run scripts/make_settlement_page.py"


def test_every_field_instruction_and_code_is_on_the_page() -> None:
    text = maker.PAGE.read_text()
    for layout in layouts.LAYOUTS:
        assert f"**{layout.name}** ({layout.size} bytes)" in text
        for field in layout:
            assert f"| {field.offset} | {field.size} | {field.kind} | {field.name} |" in text
    for error in ProgramError:
        assert f"| {int(error)} | {error.name} | {error.meaning} |" in text
    assert len(re.findall(r"^\| \d+ \| [A-Z][a-z]\w* \|", text, re.M)) == len(Tag)


def test_the_text_names_the_numbers_of_the_program() -> None:
    text = " ".join(maker.PAGE.read_text().split())
    assert (layouts.LOCK_PERIODS, layouts.ESCAPE_PERIODS, layouts.BOND_DIVISOR) == (3, 64, 10)
    for words in (
        "for three round times",
        "no list was anchored for 64 round times",
        "a tenth of the task's minimum",
    ):
        assert words in text
    assert f"leaves {layouts.CLOSED_TASK_LAYOUT.size} bytes" in text


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for accounts"):
        maker.page("nothing")


def test_a_row_that_is_not_what_the_encoder_makes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _, format, example, roles = maker.INSTRUCTIONS[Tag.FUND]
    changed = {**maker.INSTRUCTIONS, Tag.FUND: ("tag:B amount:I", format, example, roles)}
    monkeypatch.setattr(maker, "INSTRUCTIONS", changed)
    with pytest.raises(ValueError, match="the data of FUND is <BQ"):
        maker.instructions()
