from __future__ import annotations

import re
from math import prod
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from koii_p2p.tasks import audits
from koii_p2p.tasks.audits import AuditReason
from koii_p2p.tasks.sdk import Audited, Verdict
from tests.examples.playing import module_of, rehearsed, settled_on_a_testnet

EXAMPLE = "file_sharing"
REFERENCE = "b" + "a" * 58


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return module_of(EXAMPLE)


def test_the_file_holds_the_factors_of_its_numbers(module: ModuleType) -> None:
    rows = module.file_of("key", 7).split(b"\n")
    assert len(rows) == module.ROWS
    for row, expected in zip(rows, module.numbers_of("key", 7), strict=True):
        number, _, factors = row.decode().partition(" = ")
        found = [int(one) for one in factors.split(" * ")]
        assert int(number) == expected == prod(found)
        assert all(module.factors_of(one) == [one] for one in found)
    assert not set(module.numbers_of("key", 7)) & set(module.numbers_of("other", 7))
    assert not set(module.numbers_of("key", 7)) & set(module.numbers_of("key", 8))


async def judged(module: ModuleType, rows: list[bytes], root: str | None = None) -> Audited:
    async def get(reference: str) -> bytes:
        assert reference == REFERENCE
        return b"\n".join(rows)

    async def seed(*about: object) -> bytes:
        return repr(about).encode()

    ctx = SimpleNamespace(seed=seed, data=SimpleNamespace(get=get))
    root = audits.merkle_root(rows).hex() if root is None else root
    found: Audited = await module.FileSharing().audit(ctx, f"{REFERENCE} {root}", 7, "key")
    return found


async def test_each_row_counts_at_its_place_only(module: ModuleType) -> None:
    rows = module.file_of("key", 7).split(b"\n")
    assert (await judged(module, rows)).verdict is Verdict.VALID
    assert (await judged(module, rows, "00" * 32)).reason is AuditReason.WRONG_PROOF
    assert (await judged(module, rows[:1] * 256)).reason is AuditReason.WRONG_ITEM
    assert (await judged(module, rows[1:] + rows[:1])).reason is AuditReason.WRONG_ITEM
    assert (await judged(module, rows[:-1])).reason is AuditReason.MALFORMED
    assert (await judged(module, rows, "zz" * 32)).reason is AuditReason.MALFORMED


def test_who_guesses_is_caught_by_a_few_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rehearsed(EXAMPLE, tmp_path, capsys, monkeypatch, "--rounds", "1")
    assert found["rounds"][0]["outcomes"]["wrong-1"] == "REJECTED"
    said = [call["answer"] for call in found["calls"] if call["about"] == "of wrong-1"]
    assert said
    assert all(re.search(r"an item of the sample is wrong: leaf \d+", answer) for answer in said)
    handed_in = [call["answer"] for call in found["calls"] if call["function"] == "submission"]
    assert len(set(handed_in)) == len(handed_in) == 4, "each node has a file of its own"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_on_a_testnet_whose_nodes_keep_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settled_on_a_testnet(EXAMPLE, tmp_path, monkeypatch)
    # Rounds before all nodes were up pay too; the check has held each sum against the rule.
    assert all(node["paid"] > 0 for node in found["nodes"][:4])
