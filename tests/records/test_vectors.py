"""Runs `tests/vectors/records/*.json`, as another implementation would."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

import pytest

from koii_p2p.records.envelope import Verified, decode_record, verify
from koii_p2p.records.equivocation import check_equivocation
from koii_p2p.records.reasons import RecordError, RecordReason
from koii_p2p.records.schema import Ballot, BallotReveal, Equivocation, Kind
from koii_p2p.records.seals import opens

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "tests" / "vectors" / "records"
FILES = sorted(FOLDER.glob("*"))


class VectorFile(TypedDict):
    about: str
    genesis: str
    vectors: list[dict[str, str]]


def read(path: Path) -> VectorFile:
    document: VectorFile = json.loads(path.read_text(encoding="ascii"))
    return document


def check(raw: bytes, genesis: bytes, conflicts: bool) -> Verified:
    record = verify(decode_record(raw), genesis)
    if conflicts and isinstance(record.statement.body, Equivocation):
        check_equivocation(record.statement.body, genesis)
    return record


CASES = [
    pytest.param(path, read(path)["genesis"], vector, id=f"{path.stem}: {vector['name']}")
    for path in FILES
    for vector in read(path)["vectors"]
]


@pytest.mark.parametrize(("path", "genesis", "vector"), CASES)
def test_vector(path: Path, genesis: str, vector: dict[str, str]) -> None:
    raw, conflicts = bytes.fromhex(vector["record"]), path.stem == "equivocation"
    if vector["verdict"] == "valid":
        record = check(raw, bytes.fromhex(genesis), conflicts)
        assert record.id.hex() == vector["id"] == hashlib.sha256(raw).hexdigest()
    else:
        assert vector["verdict"] == "refused"
        with pytest.raises(RecordError) as caught:
            check(raw, bytes.fromhex(genesis), conflicts)
        assert caught.value.reason is RecordReason(vector["reason"])


def test_every_file_is_used_and_every_kind_and_reason_occurs() -> None:
    assert {path.name for path in FILES} == {
        "valid.json",
        "malformed-encoding.json",
        "malformed-message.json",
        "malformed-statement.json",
        "bad-signature.json",
        "equivocation.json",
    }
    vectors = [vector for path in FILES for vector in read(path)["vectors"]]
    assert all(read(path)["vectors"] and read(path)["about"] for path in FILES)
    kinds = {decode_record(bytes.fromhex(v["record"])).kind for v in vectors if v["verdict"] == "valid"}
    assert kinds == set(Kind)
    reasons = {RecordReason(v["reason"]) for v in vectors if v["verdict"] == "refused"}
    assert reasons == set(RecordReason)


def test_the_reveal_of_the_vectors_opens_their_sealed_ballot() -> None:
    document = read(FOLDER / "valid.json")
    raws = {vector["name"]: bytes.fromhex(vector["record"]) for vector in document["vectors"]}
    ballot, reveal = (decode_record(raws[name]) for name in ("sealed ballot", "ballot reveal"))
    assert isinstance(ballot.statement.body, Ballot)
    assert isinstance(reveal.statement.body, BallotReveal)
    seal, place = ballot.statement.body.seal, ballot.statement
    assert seal is not None
    assert opens(reveal.statement.body, seal, place.task, place.round, ballot.author)


def test_the_script_writes_the_same_bytes(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make_vectors.py"
    subprocess.run([sys.executable, str(script), "--output", str(tmp_path)], check=True, timeout=120)
    written = {path.name: path.read_bytes() for path in (tmp_path / "records").iterdir()}
    assert written == {path.name: path.read_bytes() for path in FILES}
