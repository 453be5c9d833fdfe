from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.tasks.config_task import load_config
from koii_p2p.tasks.config_terms import plan_of
from koii_p2p.tasks.offer import config_in, differences, offer_of
from koii_p2p.tasks.package import Package, pack
from koii_p2p.tasks.package_folder import pack_folder
from koii_p2p.tasks.rule_words import rules_in_words

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello_world"
MINT = "FJG91RFNzdoHZR2Rd4eWFNSrnpSBmfaNrDMEzqqMPNSG"
TASK, CREATOR = b"\1" * 32, b"\2" * 32


def terms() -> TaskTerms:
    """The terms that the example's own file comes to."""
    plan = plan_of(load_config(EXAMPLE).config)
    return replace(plan, program="x").terms(TASK, CREATOR, 0)


def with_config(*changes: str) -> Package:
    """The example's package with texts of its config replaced: what, by what, what, by what, ..."""
    files = dict(pack_folder(EXAMPLE).package.files)
    text = files["config-task.yml"].decode()
    for change, to in zip(changes[::2], changes[1::2], strict=True):
        assert change in text
        text = text.replace(change, to)
    return pack({**files, "config-task.yml": text.encode()})


def test_an_offer_says_whose_code_it_is_and_what_it_wants() -> None:
    package = pack_folder(EXAMPLE).package
    found = offer_of(package, terms())
    assert (found.task, found.author, found.cid) == (TASK, CREATOR, package.cid)
    assert (found.size, found.files) == (len(package.data), 3)
    assert found.wishes == ("CPU 1-core", "RAM 1 GB")
    assert found.differences == ()


def test_where_the_file_and_k2_disagree_is_said_field_by_field() -> None:
    config = config_in(pack_folder(EXAMPLE).package)
    held = terms()
    assert differences(config, held) == ()
    for change in (
        {"name": "other"},
        {"round_time": 501},
        {"submission_window": 10},
        {"audit_window": 10},
        {"bounty_per_round": 1},
        {"minimum_stake": 1},
        {"slash_basis_points": 1},
        {"allowed_failed_distributions": 1},
        {"audit": rules_in_words({"profile": "all"})},
    ):
        (said,) = differences(config, replace(held, **change))  # type: ignore[arg-type]
        assert "K2" in said
        assert "count" in said


def test_what_a_file_says_cannot_move_the_cursor_or_fill_the_screen() -> None:
    tag = (
        'requirementsTags:\n  - type: ADDON\n    value: "REQUIRE_INTERNET"\n    description: "\\e[2J'
        + "x" * 500
        + '"\n'
    )
    (wish, *_) = offer_of(with_config("requirementsTags:\n", tag), terms()).wishes
    assert wish.startswith("ADDON REQUIRE_INTERNET: ")
    assert wish.isprintable()
    assert len(wish) <= 200
    author = offer_of(with_config('author: "', 'author: "\\x1b[31m'), terms()).called
    assert author.isprintable()


def test_a_description_is_read_from_the_package_and_from_nowhere_else() -> None:
    named = with_config("description:", "markdownDescriptionPath: README.md\ndescription:")
    assert "Hello" in config_in(named).description
    for path in ("/etc/hostname", "../README.md", "missing.md"):
        with pytest.raises(ConfigurationError, match="is not in the package"):
            config_in(with_config("description:", f"markdownDescriptionPath: {path}\ndescription:"))


def test_settings_that_cannot_be_used_are_no_offer() -> None:
    with pytest.raises(ConfigurationError, match="round_time"):
        offer_of(with_config("round_time: 500", "round_time: soon"), terms())
    with pytest.raises(ConfigurationError, match="KPL"):
        offer_of(with_config('token_type: ""', f'token_type: "{MINT}"', 'KOII"\n', 'KPL"\n'), terms())
