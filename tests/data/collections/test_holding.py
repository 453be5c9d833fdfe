"""What strangers' documents, definitions and questions may cost a holder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.document import body_of, sign_document
from koii_p2p.data.collections.holding import Holding
from koii_p2p.data.collections.query import parse_query
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.store import DocumentStore
from koii_p2p.data.collections.update import check_update
from koii_p2p.data.collections.values import Json, parse_json
from koii_p2p.limits import Limits
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.database import Database

GENESIS, TASK = b"g" * 32, b"t" * 32
AUTHOR = SecretKey.from_seed(b"a" * 32)
LINKS = Definition("links", shards=2)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database.open(tmp_path / "db") as opened:
        yield opened


def holding(database: Database, **limits: float) -> Holding:
    chosen = replace(Limits(), **limits)  # type: ignore[arg-type]
    store = DocumentStore(database, TASK, chosen)
    made = Holding(TASK, GENESIS, AUTHOR.public_key, store, lambda: 100, chosen)
    made.set_stakers([AUTHOR.public_key])
    return made


async def fill(made: Holding, values: list[dict[str, Json]]) -> None:
    signed = [
        sign_document(
            LINKS.id, f"k{n:03}", body_of(value), slot=5, seq=n, genesis=GENESIS, task=TASK, signer=AUTHOR
        )
        for n, value in enumerate(values)
    ]
    outcomes = await made.receive(LINKS, [one.raw for one in signed], AUTHOR.public_key)
    assert set(outcomes) == {True}


def test_made_up_definitions_are_not_remembered_for_ever(database: Database) -> None:
    made = holding(database, collections=2)
    for number in range(50):
        made.replicas(Definition(f"c{number}", shards=4))
    assert len(made._placement) == 10
    everybody = made.replicas(Definition("full", shards=256, full=True))
    assert all(keys is everybody[0] for keys in everybody), "one tuple, and not one for each shard"


async def test_who_holds_what_is_known_before_stakers_change(database: Database) -> None:
    made = holding(database)
    made.store.open(LINKS, AUTHOR.public_key, own=True)
    keys = frozenset(bytes((number, other)) * 16 for number in range(100) for other in range(50))
    placement = await made.placed(keys)
    assert made.set_stakers(keys, placement)
    assert made.replicas(LINKS) is placement[LINKS.id]
    other = Definition("other", shards=2)
    await made.place(other)
    assert made.replicas(other) == (await made.placed(keys) | {other.id: made.replicas(other)})[other.id]


async def test_nobody_waits_for_the_hashes_of_many_stakers(database: Database) -> None:
    made = holding(database)
    before = made.replicas(LINKS)
    keys = frozenset(bytes((number, other)) * 16 for number in range(100) for other in range(50))
    made.set_stakers(keys)
    assert made.replicas(LINKS) == before, "until it is worked out, those from before"
    assert set(made.replicas(Definition("never seen"))) == {()}
    await made.place(LINKS)
    assert len(set(made.replicas(LINKS)[0]) & keys) == LINKS.replicas


async def test_only_what_is_asked_for_is_kept_while_it_is_looked_for(database: Database) -> None:
    made = holding(database, query_result_bytes=4000)
    await fill(made, [{"n": n, "x": "x" * 500} for n in range(40)])
    query = parse_query({}, sort={"n": -1}, limit=3)
    found = await made.find(LINKS, range(2), query)
    assert [row["n"] for _, row in found] == [39, 38, 37]
    with pytest.raises(DocumentError) as caught:
        await made.find(LINKS, range(2), parse_query({}))
    assert caught.value.reason is DocumentReason.TOO_MUCH


async def test_a_costly_question_ends_in_time_and_others_get_their_turn(database: Database) -> None:
    made = holding(database, request_deadline=0.3)
    await fill(made, [{"a": list(range(5000))} for _ in range(40)])
    options: list[Json] = [-n - 1 for n in range(200)]
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await trio.sleep(0.01)
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turn)
        with pytest.raises(DocumentError, match="too long"):
            await made.find(LINKS, range(2), parse_query({"a": {"$in": options}}))
        assert turns
        nursery.cancel_scope.cancel()


def test_sorting_by_large_values_ends_when_it_is_told_to() -> None:
    left = 10

    def watched() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise DocumentError(DocumentReason.TOO_MUCH)

    rows: list[dict[str, Json]] = [{"_id": str(n), "a": list(range(100))} for n in range(50)]
    with pytest.raises(DocumentError):
        parse_query({}, sort={"a": 1}).ordered(rows, watched)
    assert left == -1


def test_half_a_surrogate_pair_is_no_text_and_a_path_has_an_end() -> None:
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"
    with pytest.raises(ValueError, match="surrogates"):
        parse_json('{"a": ["\\ud800"]}')
    with pytest.raises(DocumentError):
        check_update({"$set": {".".join("a" * 100): 1}})
