from __future__ import annotations

import json
from pathlib import Path

import base58
import pytest

from koii_p2p.rounds.tally import Outcome
from koii_p2p.tasks.audits import AuditReason
from koii_p2p.tasks.loader import load_task_class
from koii_p2p.tasks.sdk import Submitter, Verdict
from tests.e2e.shell import LONG, koii_p2p
from tests.e2e.test_documents import ROOT, shown_commands

EXAMPLE = ROOT / "examples" / "caesar_cipher"
STAKE = 1_900_000_000


@pytest.fixture
def task() -> object:
    return load_task_class(EXAMPLE)()


def message(shift: object, text: str, **more: object) -> str:
    return json.dumps({"shift": shift, "message": text, **more})


@pytest.mark.parametrize(
    ("submission", "reason"),
    [
        (message(1, "Lpjj spdlt!"), AuditReason.AS_EXPECTED),
        (message(25, "Jnhh qnbjr!"), AuditReason.AS_EXPECTED),
        (message(2, "Lpjj spdlt!"), AuditReason.DIFFERENT),
        (message(0, "Koii rocks!"), AuditReason.MALFORMED),
        (message(26, "Koii rocks!"), AuditReason.MALFORMED),
        (message("1", "Lpjj spdlt!"), AuditReason.MALFORMED),
        (message(1, "Lpjj spdlt!", more=1), AuditReason.MALFORMED),
        ("[" * 500, AuditReason.MALFORMED),
        (b"\xff", AuditReason.MALFORMED),
        ("Koii rocks!", AuditReason.MALFORMED),
    ],
)
async def test_what_decrypts_is_valid_and_all_else_invalid(
    task, submission: str | bytes, reason: AuditReason
) -> None:
    found = await task.audit(None, submission, 0, "key")
    assert found.reason is reason
    assert found.verdict is (Verdict.VALID if reason is AuditReason.AS_EXPECTED else Verdict.INVALID)


async def test_the_money_is_the_lessons(task) -> None:
    keys = [base58.b58encode(bytes([number]) * 32).decode() for number in range(1, 6)]
    outcomes = [Outcome.APPROVED, Outcome.APPROVED, Outcome.REJECTED, Outcome.UNDECIDED, Outcome.UNAVAILABLE]
    submitters = [Submitter(key, outcome, STAKE) for key, outcome in zip(keys, outcomes, strict=True)]
    amounts = await task.distribution(None, submitters, 1_000_000_000, 0)
    assert list(amounts.values()) == [250_000_000, 250_000_000, -STAKE, -STAKE // 2, 0]
    poor = await task.distribution(None, submitters, 300_000_001, 0)
    assert poor[keys[0]] == 150_000_000
    assert await task.distribution(None, submitters[2:3], 10**9, 0) == {keys[2]: -STAKE}


def test_rounds_with_all_kinds_of_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, _ = shown_commands([EXAMPLE / "README.md"])
    monkeypatch.chdir(ROOT)
    result = koii_p2p(*command.split()[1:], "--output", "json", seconds=120, KOII_P2P_HOME=str(tmp_path))
    assert result.returncode == 0, result.stdout[-1500:]
    found = json.loads(result.stdout)
    assert found["rounds"][0]["amounts"]["wrong-1"] == -STAKE
    assert found["rounds"][0]["amounts"]["honest-1"] == 1_000_000_000 // 5


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_its_own_rules_are_verified_on_a_testnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, up = shown_commands([EXAMPLE / "README.md"])
    net = tmp_path / "net"
    place = {"KOII_P2P_TESTNET_DIR": str(net)}
    result = koii_p2p(*up.split()[1:], "--output", "json", seconds=LONG, **place)
    found = json.loads(result.stdout)
    assert (result.returncode, found["failures"], found["findings"]) == (0, [], []), result.stderr[-2000:]
    assert (found["settled"], found["verified"], found["unrecomputed"]) == (1, True, [])
    rounds = len(found["rounds"])  # one, and those that began while nodes were still starting
    *honest, cheater = found["nodes"]
    assert (cheater["taken"], cheater["stake_now"], cheater["paid"]) == (STAKE, 0, 0)
    for node in honest:
        assert node["taken"] == 0
        assert node["paid"] % 250_000_000 == 0
        assert 0 < node["paid"] <= rounds * 250_000_000

    why = koii_p2p(
        "explain", "0", cheater["key"], "--evidence", str(net / "evidence"), "--output", "json", **place
    )
    told = json.loads(why.stdout)
    assert {vote["reason"] for vote in told["audit"]["votes"]} == {AuditReason.MALFORMED.value}

    def checked(*words: str) -> tuple[int, str]:
        again = koii_p2p("testnet", "check", *words, **place)
        return again.returncode, " ".join(again.stdout.split())

    assert checked()[0] == 0
    evidence = ("--evidence", str(net / "evidence"))
    code, shown = checked(*evidence)
    assert (code, "verified: all but the lists of rounds" in shown) == (1, True)
    code, shown = checked(*evidence, "--code", str(EXAMPLE))
    assert (code, "verified: yes" in shown) == (0, True)
    code, shown = checked(*evidence, "--code", str(ROOT / "examples" / "hello_world"))
    assert (code, "[list_leaf]" in shown, "verified: no" in shown) == (1, True, True)
