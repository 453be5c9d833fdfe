"""The store: newest wins in any order, rows agree after every write and after kill -9, quotas, tombstones, changes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.document import VerifiedDocument, body_of, key_digest, sign_document
from koii_p2p.data.collections.query import Bounds
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.store import SEQUENCES_AT_ONCE, TASK_CODE, DocumentStore
from koii_p2p.limits import Limits
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.database import Database
from tests.data.collections.crash import GENESIS, STORY, TASK
from tests.data.collections.rows import check_rows

AUTHORS = [SecretKey.from_seed(bytes((number,)) * 32) for number in range(1, 4)]
LINKS = Definition("links", shards=4, indexes=("n", "words"))


def document(
    key: str, value: object, slot: int, seq: int, author: int = 0, definition: Definition = LINKS
) -> VerifiedDocument:
    return sign_document(
        definition.id,
        key,
        None if value is None else body_of(value),  # type: ignore[arg-type]
        slot=slot,
        seq=seq,
        genesis=GENESIS,
        task=TASK,
        signer=AUTHORS[author],
    )


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database.open(tmp_path / "db") as opened:
        yield opened


def opened(database: Database, limits: Limits | None = None, definition: Definition = LINKS) -> DocumentStore:
    store = DocumentStore(database, TASK, limits or Limits())
    store.open(definition, AUTHORS[0].public_key, own=True)
    return store


VALUES = st.one_of(
    st.none(), st.fixed_dictionaries({"n": st.integers(-2, 2), "words": st.lists(st.sampled_from("ab"))})
)
VERSIONS = st.lists(
    st.tuples(st.sampled_from("kmx"), VALUES, st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(VERSIONS, st.randoms(use_true_random=False), st.integers(1, 5))
def test_any_order_and_any_batches_come_to_the_same_documents(
    versions: list[tuple[str, object, int, int, int]], random: Random, size: int
) -> None:
    documents = [document(*version) for version in versions]
    states = []
    for _ in range(2):
        random.shuffle(documents)
        with TemporaryDirectory() as folder, Database.open(Path(folder) / "db") as database:
            store = opened(database)
            for start in range(0, len(documents), size):
                store.put(LINKS, documents[start : start + size])
                check_rows(store, LINKS)
            states.append(
                {
                    head.digest: (head.version, head.deleted)
                    for shard in range(LINKS.shards)
                    for head in store.heads(LINKS.id, shard)
                }
            )
    newest: dict[bytes, VerifiedDocument] = {}
    for one in documents:
        if one.digest not in newest or newest[one.digest].version < one.version:
            newest[one.digest] = one
    assert states[0] == states[1] == {digest: (one.version, one.deleted) for digest, one in newest.items()}


def test_what_was_written_is_there_after_a_new_start(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        store = opened(database)
        assert store.put(LINKS, [document("k", {"n": 1}, 5, 1), document("k", {"n": 0}, 4, 9)]) == [
            True,
            False,
        ]
        stamps = [store.next_stamp(7), store.next_stamp(3)]
        assert stamps == [(7, 1), (7, 2)]
        store.note_stakers([b"s" * 32])
    with Database.open(tmp_path / "db") as database:
        store = DocumentStore(database, TASK, Limits())
        assert store.definitions() == (LINKS,)
        assert store.indexes(LINKS.id) == {"n", "words"}
        assert store.totals(LINKS.id).documents == 1
        assert store.was_staker(b"s" * 32)
        assert store.next_stamp(0) == (7, SEQUENCES_AT_ONCE + 1)
        assert store.next_stamp(0, after=40) == (41, SEQUENCES_AT_ONCE + 2)
        assert check_rows(store, LINKS) == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_at_any_moment_leaves_documents_and_indexes_that_agree(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    highest = 0
    for _ in range(3):
        command = [sys.executable, "-m", "tests.data.collections.crash", str(tmp_path / "db"), str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(random.randint(5, 60)):
                told = int(process.stdout.readline())
                assert told > highest, "a sequence is used once"
                highest = told
            process.kill()
        with Database.open(tmp_path / "db") as database:
            store = DocumentStore(database, TASK, Limits())
            assert check_rows(store, STORY) > 0


def test_an_index_finds_what_a_scan_finds(database: Database) -> None:
    store = opened(database)
    values = [
        -(10.5**20),
        -2,
        -1.5,
        0,
        0.5,
        2,
        2**60,
        "",
        "a",
        "a\x00",
        "a\x00b",
        "ab",
        "z" * 100,
        True,
        None,
    ]
    store.put(LINKS, [document(f"k{n}", {"n": value}, 1, n) for n, value in enumerate(values)])
    store.put(LINKS, [document("many", {"n": [1, ["deep"], "a"], "words": list(range(300))}, 1, 99)])
    places = {key_digest(f"k{n}"): value for n, value in enumerate(values)}

    def found(bounds: Bounds) -> set[object]:
        candidates = store.candidates(LINKS.id, "n", bounds)
        assert candidates is not None
        return {str(places.get(digest, "many")) for _, digest in candidates}

    for value in values:
        assert str(value) in found(Bounds(equal=(value,)))
    assert found(Bounds(equal=("a",))) == {"a", "many"}
    assert found(Bounds(equal=("deep",))) == {"many"}
    assert found(Bounds(low=(0, True), high=(2, True))) == {"0", "0.5", "2", "many"}
    assert found(Bounds(high=(-1, True))) == {str(-(10.5**20)), "-2", "-1.5"}
    assert found(Bounds(low=("a", True))) == {"a", "a\x00", "a\x00b", "ab", "z" * 100, "many"}
    assert found(Bounds(low=(None, True))) == set()
    assert store.candidates(LINKS.id, "n", Bounds(equal=({"x": 1},))) is None
    assert store.candidates(LINKS.id, "other", Bounds(equal=(1,))) is None
    words = store.candidates(LINKS.id, "words", Bounds(equal=("nowhere",)))
    assert words is not None
    assert [digest for _, digest in words] == [key_digest("many")], "too long an array is always looked at"
    assert store.ensure_index(LINKS.id, "late")
    assert not store.ensure_index(LINKS.id, "late")
    assert check_rows(store, LINKS) == len(values) + 1


def test_an_author_and_a_collection_have_quotas(database: Database) -> None:
    store = opened(database, replace(Limits(), author_documents=3, collection_bytes=2000))
    outcomes = store.put(LINKS, [document(f"k{n}", {"n": n}, 1, n) for n in range(4)])
    assert outcomes == [True, True, True, DocumentReason.OVER_QUOTA]
    assert store.put(LINKS, [document("k0", {"n": 9}, 2, 9)]) == [True], (
        "a new version of an old key has room"
    )
    assert store.put(LINKS, [document("other", {"n": 1}, 2, 1, author=1)]) == [True]
    big = {"n": "x" * 1000}
    assert store.put(LINKS, [document("big", big, 2, 2, author=1)]) == [DocumentReason.OVER_QUOTA]
    assert store.put(LINKS, [document("k0", None, 3, 10)]) == [True], "removing has room"
    assert check_rows(store, LINKS) == 4


def test_what_indexes_take_counts_and_so_do_tombstones_of_nothing(database: Database) -> None:
    """Else one document fills a hundred times its size, and one who vouches for made-up authors fills the disk."""
    store = opened(database, replace(Limits(), collection_bytes=20_000))
    many = document("many", {"words": list(range(256))}, 1, 1)
    assert len(many.raw) < 2000
    assert store.put(LINKS, [many]) == [DocumentReason.OVER_QUOTA]
    few = document("few", {"words": list(range(100))}, 1, 1)
    assert store.put(LINKS, [few]) == [True]
    assert store.totals(LINKS.id).bytes > 8000
    assert check_rows(store, LINKS) == 1
    buried = [store.put(LINKS, [document(f"t{n}", None, 1, n)])[0] for n in range(100)]
    assert 0 < buried.count(True) < 80
    assert buried[-1] is DocumentReason.OVER_QUOTA
    assert store.put(LINKS, [document("few", None, 2, 1)]) == [True], "what is here can be removed"
    assert store.totals(LINKS.id).bytes < 20_000
    check_rows(store, LINKS)


def test_a_collection_is_of_who_opened_it_here(database: Database) -> None:
    store = DocumentStore(database, TASK, Limits())
    store.open(LINKS, b"a" * 32, own=False)
    assert not store.open(LINKS, b"o" * 32, own=True)
    assert store.brought_by(LINKS.id) == b"o" * 32
    assert not store.open(LINKS, b"b" * 32, own=False)
    assert DocumentStore(database, TASK, Limits()).brought_by(LINKS.id) == b"o" * 32


def test_only_so_many_collections_are_kept(database: Database) -> None:
    limits = replace(Limits(), collections=4, author_collections=2, operator_collections=0)
    store = DocumentStore(database, TASK, limits)
    assert [store.open(Definition(name), b"a" * 32, own=False) for name in ("one", "two", "one")] == [
        True,
        True,
        False,
    ]
    with pytest.raises(DocumentError):
        store.open(Definition("three"), b"a" * 32, own=False)
    assert store.open(Definition("three"), b"b" * 32, own=False)
    assert store.open(Definition("four"), b"b" * 32, own=True)
    with pytest.raises(DocumentError) as caught:
        store.open(Definition("five"), b"c" * 32, own=True)
    assert caught.value.reason is DocumentReason.TOO_MANY_COLLECTIONS


def test_some_are_kept_free_for_who_runs_the_node(database: Database) -> None:
    store = DocumentStore(database, TASK, replace(Limits(), collections=4, operator_collections=2))
    for number in range(2):
        assert store.open(Definition(f"of {number}"), bytes((1 + number,)) * 32, own=False)
    with pytest.raises(DocumentError):
        store.open(Definition("third"), b"c" * 32, own=False)
    assert store.open(Definition("third"), b"o" * 32, own=True)


def test_the_tasks_code_has_a_number_of_its_own_that_a_restart_does_not_forget(database: Database) -> None:
    limits = replace(Limits(), task_db_collections=2)
    store = DocumentStore(database, TASK, limits)
    for number in range(2):
        assert store.open(Definition(f"of {number}"), TASK_CODE, own=False)
    again = DocumentStore(database, TASK, limits)
    with pytest.raises(DocumentError) as caught:
        again.open(Definition("third"), TASK_CODE, own=False)
    assert caught.value.reason is DocumentReason.TOO_MANY_COLLECTIONS
    assert again.open(Definition("third"), b"o" * 32, own=True)


def test_tombstones_go_when_their_time_is_over_and_documents_stay(database: Database) -> None:
    store = opened(database)
    store.put(LINKS, [document(f"k{n}", None if n % 2 else {"n": n}, n, n) for n in range(10)])
    assert sum(store.purge(LINKS.id, 6).values()) == 3
    assert (store.totals(LINKS.id).documents, store.totals(LINKS.id).tombstones) == (5, 2)
    assert sum(store.purge(LINKS.id, 100, most=1).values()) == 1
    assert check_rows(store, LINKS) == 6


def test_changes_are_told_in_order_each_document_once(database: Database) -> None:
    store = opened(database)
    store.put(LINKS, [document(f"k{n}", {"n": n}, 1, n) for n in range(4)])
    seen = store.last_ordinal(LINKS.id)
    store.put(
        LINKS, [document("k1", {"n": 9}, 2, 9), document("k2", None, 2, 10), document("k1", {"n": 10}, 3, 11)]
    )
    changed = list(store.changes(LINKS.id, seen, 10))
    assert [one.raw for one in changed] == [
        document("k2", None, 2, 10).raw,
        document("k1", {"n": 10}, 3, 11).raw,
    ]
    assert len(list(store.changes(LINKS.id, 0, 10))) == 4
    assert len(list(store.changes(LINKS.id, 0, 3))) == 3
