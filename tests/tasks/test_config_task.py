from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.errors import ConfigurationError
from koii_p2p.rounds.audit_rules import AuditRules, Profile, Weights
from koii_p2p.rounds.terms import TermsError
from koii_p2p.tasks.config_task import (
    ConfigRead,
    Network,
    OwnTerms,
    Requirement,
    RequirementTag,
    TaskConfig,
    TaskConfigError,
    TaskType,
    load_config,
    read_config,
)
from koii_p2p.tasks.config_terms import MEANINGS, metadata_of, plan_of, seconds_of, timetable

KEY = "7RzFDBFBf2NnBdUVn8uRL5BGcyRWYdXQzUnNGdYWHRcF"
FILE = Path("config-task.yml")

FULL = f"""\
task_name: "  A task  "
author: someone
description: What it does
repositoryUrl: https://example.org/task
imageUrl: https://example.org/image.png
infoUrl: ""
koiiOceanUrl:
task_executable_network: DEVELOPMENT
task_audit_program: main
round_time: 1500
audit_window: 510
submission_window: 520
minimum_stake_amount: 1.9
task_type: KOII
token_type: {KEY}
total_bounty_amount: 100.000000001
bounty_amount_per_round: 1e1
allowed_failed_distributions: 3
space: 0.1
requirementsTags:
  - type: TASK_VARIABLE
    description: A secret
  - type: CPU
    value: "4-core"
  - {{type: ADDON, value: REQUIRE_INTERNET}}
tags: [AI, "Data Gathering"]
environment: TEST
task_id: ""
migrationDescription: ""
"""

OWN = """\
koii_p2p:
  program: examples.hello_world
  slash_basis_points: 5000
  starts_in: 40
  audit:
    profile: posp
    audit_rate: 5000
    sealed: yes
"""


def read(text: str) -> ConfigRead:
    def none(name: str) -> str:
        raise AssertionError(f"{name} was read")

    return read_config(text.encode(), FILE, none)


def changed(**fields: str | None) -> str:
    """FULL with fields written otherwise; None leaves one out."""
    lines = FULL.splitlines()
    for name, value in fields.items():
        index = next((i for i, line in enumerate(lines) if line.startswith(f"{name}:")), None)
        if index is None:
            lines.append(f"{name}: {value}")
        elif value is None:
            del lines[index]
        else:
            lines[index] = f"{name}: {value}"
    return "\n".join(lines)


def faults(text: str) -> list[str]:
    with pytest.raises(TaskConfigError) as caught:
        read(text)
    assert caught.value.exit_code == 3
    assert str(FILE) in caught.value.what
    assert all(fault.why and fault.remedy for fault in caught.value.faults)
    return [str(fault) for fault in caught.value.faults]


def test_every_field_is_read() -> None:
    found = read(FULL)
    assert found.config == TaskConfig(
        task_name="A task",
        author="someone",
        description="What it does",
        repository_url="https://example.org/task",
        image_url="https://example.org/image.png",
        task_executable_network=Network.DEVELOPMENT,
        task_audit_program="main",
        round_time=1500,
        audit_window=510,
        submission_window=520,
        minimum_stake_amount=Decimal("1.9"),
        task_type=TaskType.KOII,
        token_type=KEY,
        total_bounty_amount=Decimal("100.000000001"),
        bounty_amount_per_round=Decimal(10),
        allowed_failed_distributions=3,
        space=Decimal("0.1"),
        requirements_tags=(
            RequirementTag(Requirement.TASK_VARIABLE, "", "A secret"),
            RequirementTag(Requirement.CPU, "4-core"),
            RequirementTag(Requirement.ADDON, "REQUIRE_INTERNET"),
        ),
        tags=("AI", "Data Gathering"),
        environment="TEST",
    )
    assert found.warnings == ()
    assert found.fields[:3] == ("task_name", "author", "description")
    assert "koiiOceanUrl" not in found.fields, "it has no value"
    assert set(found.fields) <= set(MEANINGS)


def test_what_it_becomes() -> None:
    plan = plan_of(read(FULL).config)
    terms = plan.terms(bytes([1] * 32), bytes([2] * 32), 77)
    assert (terms.task, terms.creator, terms.starting_slot) == (bytes([1] * 32), bytes([2] * 32), 77)
    assert (terms.name, terms.program) == ("A task", "main")
    assert (terms.round_time, terms.submission_window, terms.audit_window) == (1500, 520, 510)
    assert (terms.minimum_stake, terms.bounty_per_round) == (1_900_000_000, 10_000_000_000)
    assert plan.fund == 100_000_000_001, "in Roe, to the last one"
    assert (terms.slash_basis_points, terms.allowed_failed_distributions) == (7000, 3)
    assert terms.audit == AuditRules()
    assert plan.starts_in == 150
    assert timetable(plan) == {
        "starts_in": 150,
        "round_time": 1500,
        "submission_window": 520,
        "audit_window": 510,
        "delay": 470,
        "until_paid": 3000 + 520 + 510,
    }
    assert seconds_of(1500) == 600


def test_our_own_section() -> None:
    found = read(FULL + OWN)
    words = {"profile": "posp", "audit_rate": "5000", "sealed": "yes"}
    assert found.config.own == OwnTerms("examples.hello_world", 5000, 40, words)
    terms = plan_of(found.config).terms(bytes(32), bytes(32), 0)
    assert (terms.program, terms.slash_basis_points) == ("examples.hello_world", 5000)
    assert terms.audit == AuditRules(profile=Profile.POSP, audit_rate=5000, sealed=True)
    koii = plan_of(read(FULL + "koii_p2p:\n  audit:\n    profile: koii\n").config)
    assert koii.terms(bytes(32), bytes(32), 0).audit.weights is Weights.EQUAL


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"task_name": None}, "task_name is missing"),
        ({"task_name": '" "'}, "line 1: task_name is missing or empty"),
        ({"task_name": "n" * 25}, "which has 25 bytes. Write at most 24"),
        ({"task_name": "ł" * 13}, "which has 26 bytes"),
        ({"task_name": "500"}, 'line 1: task_name is 500, and has to be text. Put it in quotes: "500"'),
        ({"task_name": "true"}, "has to be text"),
        ({"task_name": "[a]"}, "line 1: task_name is a list or a mapping. Write a single value"),
        ({"author": None}, "author is missing"),
        ({"description": "''"}, "description is missing"),
        ({"repositoryUrl": None}, "repositoryUrl is missing"),
        ({"imageUrl": "7"}, "imageUrl is 7, and has to be text"),
        ({"task_executable_network": None}, "task_executable_network is missing. Write IPFS, ARWEAVE or"),
        ({"task_executable_network": "ipfs"}, "line 8: task_executable_network is 'ipfs'. Write IPFS"),
        ({"task_audit_program": None}, "task_audit_program is missing, and with DEVELOPMENT"),
        ({"task_audit_program": "p" * 65}, "which has 65 bytes. Write at most 64"),
        ({"task_audit_program_id": "p" * 65}, "which has 65 bytes. Write at most 64"),
        ({"task_executable_network": "IPFS"}, "is 'main', and with IPFS it is the path"),
        ({"round_time": None}, "round_time is missing. Write a whole number of slots, from 1 to"),
        ({"round_time": '"1500"'}, "line 10: round_time is '1500' in quotes"),
        ({"round_time": "0"}, "line 10: round_time is 0. Write a whole number of slots, from 1"),
        ({"round_time": "-5"}, "round_time is -5"),
        ({"round_time": "1500.5"}, "round_time is 1500.5, and slots are whole"),
        ({"round_time": "4294967296"}, "from 1 to 4294967295"),
        ({"round_time": "01500"}, "a number that begins with 0 as octal"),
        ({"round_time": "0x5dc"}, "'0x5dc', which is not a number"),
        ({"round_time": "1_500"}, "not a number"),
        ({"round_time": "25:00"}, "not a number"),
        ({"round_time": "1" * 50}, "not a number"),
        ({"round_time": "many"}, "not a number"),
        ({"round_time": "{}"}, "line 10: round_time is a list or a mapping"),
        ({"round_time": "1029"}, "line 10: round_time is 1029 slots, less than the 1030 of submission_window"),
        ({"audit_window": "0"}, "line 11: audit_window is 0"),
        ({"audit_window": "5"}, "line 11: audit_window is 5 slots, and an audit has stages that need 6"),
        ({"submission_window": "~"}, "submission_window is missing"),
        ({"minimum_stake_amount": "0"}, "minimum_stake_amount is 0. Write a number of KOII, more than 0"),
        ({"minimum_stake_amount": "0.0000000001"}, "has more than nine decimals"),
        ({"minimum_stake_amount": ".nan"}, "not a number"),
        ({"minimum_stake_amount": ".inf"}, "not a number"),
        ({"minimum_stake_amount": "1.9 KOII"}, "not a number"),
        ({"task_type": None}, "task_type is missing. Write KOII or KPL"),
        ({"task_type": "SOL"}, "line 14: task_type is 'SOL'. Write KOII or KPL"),
        ({"token_type": "abc"}, "line 15: token_type is 'abc', which is not a key"),
        ({"token_type": f'"{"1" * 45}"'}, "not a key"),
        ({"task_type": "KPL", "token_type": '""'}, "token_type is missing"),
        ({"total_bounty_amount": "9.99"}, "total_bounty_amount is 9.99. Write a number of KOII, from 10"),
        ({"total_bounty_amount": "1e99"}, "to 18446744073.709551615"),
        ({"bounty_amount_per_round": "101"}, "is 101, more than total_bounty_amount 100.000000001"),
        ({"bounty_amount_per_round": "-1"}, "bounty_amount_per_round is -1"),
        ({"allowed_failed_distributions": "16"}, "from 0 to 15"),
        ({"allowed_failed_distributions": None}, "allowed_failed_distributions is missing"),
        ({"space": "0.09"}, "space is 0.09. Write a number of MB, from 0.1 to 50"),
        ({"space": "50.1"}, "space is 50.1"),
        ({"tags": "AI"}, "tags is not a list"),
        ({"tags": "[AI, 7]"}, "tags[2] is not text"),
        ({"tags": f"[{'x,' * 65}]"}, "tags has 65 entries. Write at most 64"),
        ({"task_id": "abc"}, "task_id is 'abc', which is not a key"),
        ({"koii_p2p": "7"}, "koii_p2p is not a mapping"),
        ({"koii_p2p": "{slash_basis_points: 10001}"}, "koii_p2p.slash_basis_points is 10001"),
        ({"koii_p2p": f"{{program: {'p' * 65}}}"}, "koii_p2p.program is"),
        ({"koii_p2p": "{starts_in: -1}"}, "koii_p2p.starts_in is -1"),
        ({"koii_p2p": "{audit: {auditor: 3}}"}, "koii_p2p.audit.auditor does not exist; perhaps you mean auditors"),
        ({"koii_p2p": "{audit: {auditors: 0}}"}, "koii_p2p.audit.auditors cannot be like this: auditors is 0"),
        ({"koii_p2p": "{audit: {auditors: }}"}, "koii_p2p.audit.auditors has no value"),
        ({"koii_p2p": "{audit: {profile: all, audit_rate: 5}}"}, "profile all audits everything alike"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_like_this_is_refused(fields: dict[str, str | None], told: str) -> None:
    (fault,) = faults(changed(**fields))
    assert told in fault


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("- CPU", "line 26: requirementsTags[4] is not a mapping"),
        ("- {type: GPU, value: x}", "line 26: requirementsTags[4].type is 'GPU'. Write GLOBAL_VARIABLE"),
        ("- {value: x}", "requirementsTags[4].type is missing"),
        ("- {type: RAM}", "requirementsTags[4].value is missing"),
        ("- {type: RAM, value: 5}", "requirementsTags[4].value is 5, and has to be text"),
        ("- {type: RAM, value: [a]}", "requirementsTags[4].value is a list"),
    ],
)
def test_a_requirement_that_is_none_is_refused(entry: str, told: str) -> None:
    (fault,) = faults(FULL.replace("tags: [AI", f"  {entry}\ntags: [AI"))
    assert told in fault


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    text = changed(round_time='"x"', task_name=None, space="99", task_type="SOL")
    found = faults(text)
    assert [fault.split()[2] for fault in found[:3]] == ["round_time", "task_type", "space"]
    assert found[3].startswith("task_name is missing")
    with pytest.raises(TaskConfigError, match="4 fields are wrong"):
        read(text)
    with pytest.raises(TaskConfigError) as caught:
        read("")
    assert len(caught.value.faults) == 14


def test_text_that_is_no_yaml_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigurationError, match=r"config-task.yml cannot be used. Line 2: it is not YAML"):
        read("task_name: x\n  author: y\n")
    with pytest.raises(ConfigurationError, match="second time"):
        read(FULL + "author: another\n")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"task_nmae": "x"}, "line 30: task_nmae is not a field of this file, and is ignored; perhaps you mean"),
        ({"secret_web3_storage_key": "shhh"}, "secret_web3_storage_key is not a field"),
        ({"koii_p2p": "{slash: 7000}"}, "koii_p2p.slash is not a field of this file, and is ignored"),
        ({"audit_window": "500"}, "audit_window is 500 of 1500 slots; Koii advises more than a third"),
        ({"submission_window": "8"}, "submission_window is 8 of 1500 slots"),
        ({"allowed_failed_distributions": "0"}, "Koii's own tool takes 1 or more"),
        ({"environment": "STAGING"}, "environment is 'STAGING'; Koii knows TEST and PRODUCTION"),
        ({"task_id": KEY}, "task_id is for updates"),
        ({"bounty_amount_per_round": "0"}, "nobody is paid"),
    ],
)  # fmt: skip
def test_what_is_seldom_meant_is_warned_of(fields: dict[str, str], told: str) -> None:
    (warning,) = read(changed(**fields)).warnings
    assert told in warning
    assert "shhh" not in warning, "a value may be a secret"


@pytest.mark.parametrize(
    ("fields", "program"),
    [
        ({"task_audit_program_id": "id"}, "id"),
        ({"task_executable_network": "ARWEAVE", "task_audit_program": "tx"}, "tx"),
        ({"task_executable_network": "IPFS", "task_audit_program": "dist/main.js"}, ""),
        ({"koii_p2p": "{program: mine}", "task_audit_program_id": "id"}, "mine"),
    ],
)
def test_where_the_programs_name_comes_from(fields: dict[str, str], program: str) -> None:
    plan = plan_of(read(changed(**fields)).config)
    assert plan.program == program
    if not program:
        with pytest.raises(TermsError, match="program is empty"):
            plan.terms(bytes(32), bytes(32), 0)


def test_a_task_that_pays_in_tokens_is_read_and_not_created() -> None:
    config = read(changed(task_type="KPL")).config
    assert config.task_type is TaskType.KPL
    with pytest.raises(ConfigurationError, match="pays in tokens"):
        plan_of(config)


def test_the_shortest_audit_is_for_profiles_with_stages() -> None:
    text = changed(audit_window="1", koii_p2p="{audit: {profile: koii}}")
    assert plan_of(read(text).config).terms(bytes(32), bytes(32), 0).audit_window == 1


def test_the_metadata_is_that_of_koiis_tool() -> None:
    assert metadata_of(read(FULL).config, 1_700_000_000_000) == {
        "author": "someone",
        "description": "What it does",
        "repositoryUrl": "https://example.org/task",
        "createdAt": 1_700_000_000_000,
        "imageUrl": "https://example.org/image.png",
        "environment": "TEST",
        "requirementsTags": [
            {"type": "TASK_VARIABLE", "description": "A secret"},
            {"type": "CPU", "value": "4-core"},
            {"type": "ADDON", "value": "REQUIRE_INTERNET"},
        ],
        "tags": ["AI", "Data Gathering"],
    }


def test_a_folder_or_a_file_is_read_and_a_description_beside_it(tmp_path: Path) -> None:
    (tmp_path / "config-task.yml").write_text(changed(description=None, markdownDescriptionPath="about.md"))
    (tmp_path / "about.md").write_text("# Why\n\nBecause.\n")
    for path in (tmp_path, tmp_path / "config-task.yml"):
        assert load_config(path).config.description == "# Why\n\nBecause."


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("absent.md", "is not a file beside this one"),
        ("folder", "is not a file"),
        ("empty.md", "is empty"),
        ("../outside.md", "is outside the folder"),
        ("link.md", "is outside the folder"),
        ("circle.md", "is not a file"),
        ("n" * 5000, "cannot be read"),
        ("/etc/hostname", "is outside the folder"),
        ("bytes.md", "is not UTF-8"),
        ("long.md", "has more than 65536 bytes"),
    ],
)
def test_a_description_that_cannot_be_read_is_refused(tmp_path: Path, name: str, why: str) -> None:
    folder = tmp_path / "task"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "outside.md").write_text("private")
    (folder / "link.md").symlink_to(tmp_path / "outside.md")
    (folder / "circle.md").symlink_to(folder / "circle.md")
    (folder / "empty.md").write_text("\n")
    (folder / "bytes.md").write_bytes(b"\xff")
    (folder / "long.md").write_bytes(b"x" * 65_537)
    (folder / "config-task.yml").write_text(changed(markdownDescriptionPath=name))
    with pytest.raises(TaskConfigError) as caught:
        load_config(folder)
    (fault,) = caught.value.faults
    assert why in fault.why
    assert "private" not in str(caught.value)


def test_what_is_no_settings_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path, "There is no such file"),
        (tmp_path / "absent.yml", "There is no such file"),
        (tmp_path / "pipe", "not a regular file"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            load_config(path)
        assert why in caught.value.why
        assert "config-task.yml" in caught.value.remedy


@settings(max_examples=300)
@given(st.data())
def test_whatever_becomes_of_a_file_it_is_read_or_refused_in_words(data: st.DataObject) -> None:
    lines = (FULL + OWN).splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(lines) - 1))
        name = lines[index].partition(":")[0]
        value = data.draw(
            st.text(max_size=12)
            | st.floats().map(str)
            | st.integers().map(str)
            | st.sampled_from(
                ["[]", "{}", "[{}]", "[[x]]", "~", "'", '"\\0"', '"\\ud83d"', "1e99", "-.5e-9", "0o7"]
            )
        )
        lines[index] = f"{name}: {value}"
    try:
        found = read_config("\n".join(lines).encode(), FILE, str)
    except ConfigurationError as error:
        told = (error.exit_code, bool(error.what), bool(error.why), bool(error.remedy))
    else:
        plan = plan_of(found.config)
        told = (3, True, True, plan.terms(bytes(32), bytes(32), 0).round_time >= 2)
    assert told == (3, True, True, True)


def test_the_examples_of_the_tree_have_settings_that_can_be_used() -> None:
    files = sorted((Path(__file__).parents[2] / "examples").glob("*/config-task.yml"))
    assert files
    for file in files:
        found = load_config(file)
        assert found.warnings == ()
        assert plan_of(found.config).terms(bytes(32), bytes(32), 0).name == found.config.task_name
