"""docs/koii-names.md against the code: every row's name of ours is there, and every name of Koii's has a row."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from typer.main import get_command

from koii_p2p.cli.main import build_app
from koii_p2p.tasks import classic
from koii_p2p.tasks.classic import KOII_SPELLING, NOT_OFFERED, namespace_wrapper
from koii_p2p.tasks.sdk import Context, NotOffered, Task
from tests.tasks.test_sdk import ScriptedNode

PAGE = Path(__file__).parents[2] / "docs" / "koii-names.md"

METHODS = """
    initializeDB getDb storeGet storeSet fs fsStaking fsWriteStream fsReadStream payloadSigning verifySignature
    bs58Encode bs58Decode decodePayload getSlot getAverageSlotTime getRound getNodes getRpcUrl getProgramAccounts
    sendAndConfirmTransactionWrapper sendTransaction claimReward stakeOnChain logger logMessage
    checkSubmissionAndUpdateRound getTaskState getTaskStateById getTaskSubmissionInfo getTaskDistributionInfo
    getTaskDBPath getTaskLevelDBPath getBasePath getSubmitterAccount getMainAccountPubkey getTaskNodeVersion
    defaultTaskSetup auditSubmission validateAndVoteOnNodes uploadDistributionList distributionListSubmissionOnChain
    distributionListAuditSubmission validateAndVoteOnDistributionList getDistributionList
    nodeSelectionDistributionList selectAndGenerateDistributionList payoutTrigger retrieveThroughHttpGateway
    fetchWithTimeout
"""
WRAPPER = frozenset(METHODS.split())
"""The methods of Koii's namespace wrapper (npm @_koii/namespace-wrapper 1.0.23)."""


def rows(section: str) -> list[tuple[str, str]]:
    text = PAGE.read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    return [(cell[1], cell[2]) for cell in cells]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def is_there(name: str, context: Context) -> bool:
    if name.startswith("koii-p2p "):
        group, *more = name.split()[1:]
        command = get_command(build_app(group)).commands[group]  # type: ignore[attr-defined]
        return not more or more[0] in command.commands
    start, *path = name.split(".")
    found: object = {"ctx": context, "Task": Task}.get(start) or getattr(classic, start)
    for part in path:
        try:
            found = getattr(found, part)
        except NotOffered:
            return True  # the page says that it raises this
        except AttributeError:
            return False
    return True


@pytest.fixture
def context(tmp_path: Path) -> Context:
    key = bytes(32)
    return Context(
        ScriptedNode(),
        task_id=key,
        submitter=key,
        main_account=key,
        slash_basis_points=7000,
        logger=logging.getLogger("test"),
        folder=tmp_path,
    )


@pytest.mark.parametrize("section", ["The functions of a task", "The namespace wrapper", "Process and files"])
def test_every_name_of_ours_is_there(section: str, context: Context) -> None:
    found = rows(section)
    assert found
    for koii, ours in found:
        assert ours == "-" or names(ours) or ours.startswith("none"), koii
        for name in names(ours):
            assert is_there(name, context), (koii, name)


def test_every_method_of_the_wrapper_has_one_row() -> None:
    listed = [names(koii)[0] for koii, _ in rows("The namespace wrapper")]
    assert len(listed) == len(set(listed))
    assert set(listed) == WRAPPER


def test_a_name_that_is_not_there_would_be_noticed(context: Context) -> None:
    assert not is_there("ctx.no_such_thing", context)
    assert not is_there("Task.no_such_thing", context)


def test_the_wrapper_knows_every_method() -> None:
    own = {"fs", "logger"}
    assert set(KOII_SPELLING) | set(NOT_OFFERED) | own == WRAPPER
    for python in KOII_SPELLING.values():
        assert callable(vars(type(namespace_wrapper))[python])
    for name, why in NOT_OFFERED.items():
        with pytest.raises(NotOffered, match=re.escape(why)):
            getattr(namespace_wrapper, name)
    with pytest.raises(AttributeError):
        _ = namespace_wrapper.no_such_thing
