"""Settings become a carrier, or one clear error; a carrier becomes a client for each task."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from solders.pubkey import Pubkey

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.node.carriers import (
    ByKoiiTask,
    ByMemos,
    ByProgram,
    CarrierChoice,
    carrier_choice,
    read_readings,
    settlements,
)
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.koii_task.readings import NATIVE, Resubmission
from koii_p2p.settlement.koii_task.settlement import KoiiTaskSettings, KoiiTaskSettlement
from koii_p2p.settlement.memo.genesis import Genesis, GenesisStake
from koii_p2p.settlement.memo.settlement import MemoSettlement
from koii_p2p.settlement.priority_fees import PriorityFees
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient

TASK = bytes(range(32))
STAKER = SecretKey.generate()
PROGRAM = "Koiitask22222222222222222222222222222222222"
READINGS = f"""
dialect = "koii"
upload = "numbered 508"
resubmission = "refused"
data_account = "staking account"
state = "json"
stake_names_address = true
upload_writes_task = true
audit_writes_candidate = true
raise_is_vote = true
fixed_text = false
program = "{PROGRAM}"
"""


def document(folder: Path, nonce: int = 0) -> tuple[bytes, Path]:
    """A genesis document, and the task that it leads to."""
    terms = TaskTerms(bytes(32), STAKER.public_key, "memo", 1000, 100, 30, 40, 10, 10, program="t")
    stake = GenesisStake(STAKER.public_key, 50, STAKER.public_key)
    genesis = Genesis.make(terms, [stake], pledged=1000, nonce=nonce)
    path = folder / f"genesis-{nonce}.json"
    path.write_text(genesis.to_json())
    return genesis.terms.task, path


def written(folder: Path, text: str) -> str:
    path = folder / "readings.toml"
    path.write_text(text)
    return str(path)


async def clients(choice: CarrierChoice, *tasks: bytes) -> list[object]:
    """The clients of these tasks, in their order."""
    async with RpcClient("http://127.0.0.1:1") as rpc:
        made = settlements(choice, tasks, rpc, STAKER, STAKER, Limits(), PriorityFees())
    return [made[task] for task in tasks]


async def test_the_program_is_one_client_for_every_task() -> None:
    choice = carrier_choice("program", (), None, [TASK], stake=5)
    assert choice == ByProgram()
    assert (choice.settles, choice.note) == (True, "")
    first, second = await clients(choice, TASK, bytes(32))
    assert isinstance(first, ProgramSettlement)
    assert first is second


async def test_each_memo_task_is_found_by_its_document(tmp_path: Path) -> None:
    (one, first), (two, second) = document(tmp_path), document(tmp_path, nonce=1)
    choice = carrier_choice("memo", [second, first], None, [one, two])
    assert isinstance(choice, ByMemos)
    assert not choice.settles
    assert "not paid" in choice.note
    made = await clients(choice, one, two)
    for task, chain in zip((one, two), made, strict=True):
        assert isinstance(chain, MemoSettlement)
        assert [history.staker for history in await chain.stakes(task)] == [STAKER.public_key]
    with pytest.raises(ConfigurationError, match="There is no genesis document"):
        await clients(choice, TASK)


async def test_koiis_program_is_read_as_the_preset_or_the_file_says(tmp_path: Path) -> None:
    preset = carrier_choice("koii-task", (), "native", [TASK], stake=5)
    assert preset == ByKoiiTask(KoiiTaskSettings(NATIVE))
    assert not preset.settles
    assert isinstance((await clients(preset, TASK))[0], KoiiTaskSettlement)
    chosen = carrier_choice("koii-task", (), written(tmp_path, READINGS), [TASK])
    assert chosen == ByKoiiTask(KoiiTaskSettings(NATIVE, program=bytes(Pubkey.from_string(PROGRAM))))
    other = READINGS.replace('"refused"', '"replaces"').partition("program")[0]
    assert read_readings(Path(written(tmp_path, other))) == KoiiTaskSettings(
        replace(NATIVE, resubmission=Resubmission.REPLACES)
    )


@pytest.mark.parametrize(
    ("carrier", "genesis", "readings", "stake", "what", "remedy"),
    [
        (
            "program",
            ["g.json"],
            None,
            0,
            "setting genesis is of no use with the carrier program",
            "Leave gen",
        ),
        ("koii-task", ["g.json"], "native", 0, "setting genesis is of no use", "Leave genesis out"),
        ("program", [], "native", 0, "setting readings is of no use with the carrier program", "Leave read"),
        ("memo", [], "native", 0, "setting readings is of no use with the carrier memo", "Leave readings"),
        ("memo", [], None, 5, "setting stake is of no use with the carrier memo", "Leave stake out"),
        ("memo", [], None, 0, "There is no genesis document of the task", "--genesis PATH"),
        ("memo", ["none.json"], None, 0, "genesis document cannot be read", "task's creator"),
        ("koii-task", [], None, 0, "was not told how to read Koii's program", "--readings native"),
        ("koii-task", [], "kpl", 0, "A node cannot work on KPL tasks", "--readings native"),
        ("koii-task", [], "guess", 0, "guess cannot be used", "--readings native or kpl"),
    ],
)
def test_what_is_missing_or_useless_is_one_error(
    carrier: str, genesis: list[str], readings: str | None, stake: int, what: str, remedy: str, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in genesis]
    with pytest.raises(ConfigurationError) as caught:
        carrier_choice(carrier, paths, readings, [TASK], stake)
    assert what in caught.value.what
    assert remedy in caught.value.remedy
    assert caught.value.exit_code == 3


def test_a_document_of_another_task_or_given_twice_is_refused(tmp_path: Path) -> None:
    task, path = document(tmp_path)
    with pytest.raises(ConfigurationError, match="of no task of this node") as other:
        carrier_choice("memo", [path], None, [TASK])
    assert str(Pubkey(task)) in other.value.why
    copy = tmp_path / "copy.json"
    copy.write_text(path.read_text().replace("\n", ""))
    with pytest.raises(ConfigurationError, match="given twice"):
        carrier_choice("memo", [path, copy], None, [task])
    path.write_text(path.read_text().replace('"pledged": 1000', '"pledged": 1001'))
    with pytest.raises(ConfigurationError, match="a value was changed"):
        carrier_choice("memo", [path], None, [task])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "It does not say: dialect, upload"),
        (READINGS.replace("fixed_text = false", ""), "It does not say: fixed_text."),
        (READINGS + "colour = true\n", "no reading `colour`"),
        (READINGS.replace('"json"', '"xml"'), "`state` is 'xml'"),
        (READINGS.replace('"json"', "1"), "`state` is 1"),
        (READINGS.replace("= false", '= "no"'), "`fixed_text` is 'no'"),
        (READINGS.replace(PROGRAM, "Koii"), "`program` is 'Koii', not a key"),
        ("dialect =", "It is not TOML"),
        ("#" * 20_000, "too large"),
    ],
)
def test_a_bad_file_of_readings_is_named_with_the_reason(text: str, why: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        carrier_choice("koii-task", (), path, [TASK])
    assert path in caught.value.what
    assert why in caught.value.why
    assert caught.value.remedy


# --- what docs/carriers.md shows


def shown(language: str) -> str:
    """The block of a language in docs/carriers.md."""
    page = (Path(__file__).parents[2] / "docs" / "carriers.md").read_text()
    (block,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    return str(block)


def test_the_page_makes_a_genesis_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(shown("python"), {})
    task = bytes(Pubkey.from_string(capsys.readouterr().out.strip()))
    choice = carrier_choice("memo", [tmp_path / "genesis.json"], None, [task])
    assert isinstance(choice, ByMemos)
    assert choice.documents[0].total_stake == 5 * 10**9


def test_the_readings_on_the_page_are_the_native_ones(tmp_path: Path) -> None:
    settings = read_readings(Path(written(tmp_path, shown("toml"))))
    assert settings.readings == NATIVE
    assert settings.program == NATIVE.program
