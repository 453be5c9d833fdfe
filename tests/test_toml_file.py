"""TOML files: bounded, and with errors that say what to do."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.toml_file import read_bounded, toml_of

WHAT, REMEDY = "The file cannot be used.", "Name another one."


def test_a_file_is_read_as_far_as_it_may_go(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_bytes(b"#" * 10)
    assert read_bounded(file, WHAT, 10, REMEDY) == b"#" * 10
    with pytest.raises(ConfigurationError) as caught:
        read_bounded(file, WHAT, 9, REMEDY)
    assert (caught.value.what, caught.value.remedy) == (WHAT, REMEDY)
    assert caught.value.why == "It is too large: more than 9 bytes."


@pytest.mark.parametrize(
    ("name", "why"), [("none", "No such file or directory"), ("folder", "Is a directory")]
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigurationError) as caught:
        read_bounded(tmp_path / name, WHAT, 10, REMEDY)
    assert caught.value.why == f"It cannot be read: {why}."


def test_numbers_with_a_point_are_exact() -> None:
    assert toml_of(b"share = 0.1\nname = 'a'", WHAT) == {"share": Decimal("0.1"), "name": "a"}


@pytest.mark.parametrize(
    "data",
    [b"share = ", b"\xff", b"a = 1\na = 2", b"a = " + b"[" * 10_000],
    ids=["half", "no text", "twice", "deep"],
)
def test_what_is_no_toml_is_said(data: bytes) -> None:
    with pytest.raises(ConfigurationError) as caught:
        toml_of(data, WHAT)
    assert caught.value.why.startswith("It is not TOML: ")
