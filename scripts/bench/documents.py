"""How fast collections are, beside a dict and SQLite in the same run, on one core.

    python scripts/bench/documents.py [--documents 10000] [--out figures.json]

Reconciliation: two sets of as many versions with 0, 10 and 1000 that each side lacks; bytes of questions and answers,
seconds, without a network. Inserting: signing, admitting (decoding, verifying, judging) and storing, in batches; SQLite
stores the same rows with the same index, unsigned, and a dict just holds them. Queries: by key, and by an equality and
a range on an indexed field of everything that is stored here; SQLite does the same on its index, the dict looks at all.
A ratio is ours by theirs, so 0.1 is ten times as slow.
"""

from __future__ import annotations

import argparse
import json
import platform
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import trio

from koii_p2p import __version__
from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.document import body_of, sign_document
from koii_p2p.data.collections.holding import Holding, token_of
from koii_p2p.data.collections.query import Query, parse_query
from koii_p2p.data.collections.store import DocumentStore
from koii_p2p.data.collections.values import Json
from koii_p2p.limits import Limits
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.item_set import ItemSet, item_of
from koii_p2p.rounds.reconcile import Reconciler
from koii_p2p.storage.database import Database

TASK, GENESIS = b"t" * 32, b"g" * 32
BENCH = Definition("bench", shards=64, full=True, indexes=("round",))
QUERIES = 200
BATCH = 500

Figures = dict[str, object]
Question = tuple[dict[str, Json], str, tuple[object, ...]]


def cpu(work: Callable[[], object]) -> float:
    """Seconds of this process: what else runs on the machine does not count."""
    began = time.process_time()
    work()
    return time.process_time() - began


def measure_reconciliation(count: int, differences: int) -> Figures:
    """Two sets, each with `differences` versions of its own: bytes both ways, round trips, seconds."""
    random = Random(differences)
    common = [random.randbytes(64) for _ in range(count - differences)]
    own = [[random.randbytes(64) for _ in range(differences)] for _ in range(2)]

    def items(versions: list[bytes]) -> list[bytes]:
        return [item_of(one[0] % 64, one[:32], token_of(one[:32], one[32:])) for one in versions]

    first, second = items(common + own[0]), items(common + own[1])
    built: list[ItemSet] = []
    build = cpu(lambda: built.extend((ItemSet(first), ItemSet(second))))
    asker, answerer = (Reconciler(one, Limits()) for one in built)
    sent = received = trips = 0
    have: list[bytes] = []
    need: list[bytes] = []

    def exchange() -> None:
        nonlocal sent, received, trips
        question: bytes | None = asker.initiate()
        while question is not None:
            answer = answerer.respond(question)
            sent, received, trips = sent + len(question), received + len(answer), trips + 1
            step = asker.receive(answer)
            have.extend(step.have)
            need.extend(step.need)
            question = step.message

    taken = cpu(exchange)
    assert len(have) == len(need) == differences
    return {
        "documents": count,
        "differences_each": differences,
        "bytes": sent + received,
        "bytes_of_all_ids": 32 * count,
        "bytes_a_difference": round((sent + received) / max(2 * differences, 1), 1),
        "round_trips": trips,
        "seconds": round(taken, 4),
        "seconds_to_build_both_sets": round(build, 3),
    }


def measure_store(count: int, folder: Path) -> list[Figures]:
    """Inserting and asking, ours beside SQLite and a dict."""
    secret = SecretKey.from_seed(b"b" * 32)
    rows: list[dict[str, Json]] = [
        {"_id": f"k{n}", "round": n // 20, "text": "x" * 100} for n in range(count)
    ]
    database = Database.open(folder / "ours")
    store = DocumentStore(database, TASK, Limits())
    holding = Holding(TASK, GENESIS, secret.public_key, store, lambda: 100, Limits())
    holding.set_stakers([secret.public_key])
    records: list[bytes] = []

    def sign() -> None:
        for seq, row in enumerate(rows):
            body = body_of({name: value for name, value in row.items() if name != "_id"})
            records.append(
                sign_document(
                    BENCH.id,
                    str(row["_id"]),
                    body,
                    slot=100,
                    seq=seq,
                    genesis=GENESIS,
                    task=TASK,
                    signer=secret,
                ).raw
            )

    async def admit() -> None:
        for start in range(0, count, BATCH):
            outcomes = await holding.receive(BENCH, records[start : start + BATCH], secret.public_key)
            assert all(outcome is True for outcome in outcomes)

    signing = cpu(sign)
    admitting = cpu(lambda: trio.run(admit))
    plain: dict[str, dict[str, object]] = {}
    in_dict = cpu(lambda: plain.update({str(row["_id"]): json.loads(json.dumps(row)) for row in rows}))
    lite = sqlite3.connect(folder / "lite.db")
    lite.execute("CREATE TABLE documents (id TEXT PRIMARY KEY, round INTEGER, body TEXT)")
    lite.execute("CREATE INDEX by_round ON documents (round)")

    def insert() -> None:
        for start in range(0, count, BATCH):
            some = [(row["_id"], row["round"], json.dumps(row)) for row in rows[start : start + BATCH]]
            with lite:
                lite.executemany("INSERT INTO documents VALUES (?, ?, ?)", some)

    in_lite = cpu(insert)
    figures: list[Figures] = [
        {
            "what": "insert",
            "signing": round(count / signing),
            "admitting_and_storing": round(count / admitting),
            "sqlite": round(count / in_lite),
            "dict": round(count / in_dict),
            "ratio_to_sqlite": round(in_lite / admitting, 4),
            "ratio_to_dict": round(in_dict / admitting, 5),
        }
    ]
    random = Random(1)
    last = count // 20
    asked: list[tuple[str, Callable[[int], Question]]] = [
        ("by key", lambda n: ({"_id": f"k{n * 20}"}, "id = ?", (f"k{n * 20}",))),
        ("equality on an index", lambda n: ({"round": n}, "round = ?", (n,))),
        ("range on an index", lambda n: ({"round": {"$gte": n, "$lt": n + 5}}, "round >= ? AND round < ?", (n, n + 5))),
    ]  # fmt: skip
    for what, make in asked:
        questions = [make(random.randrange(last - 5)) for _ in range(QUERIES)]
        queries = [parse_query(filter) for filter, _, _ in questions]
        found: dict[str, int] = {"ours": 0, "lite": 0, "dict": 0}

        async def ask_ours(queries: list[Query] = queries, found: dict[str, int] = found) -> None:
            for query in queries:
                found["ours"] += len(await holding.find(BENCH, range(BENCH.shards), query))

        def ask_lite(questions: list[Question] = questions, found: dict[str, int] = found) -> None:
            for _, where, values in questions:
                answer = lite.execute(f"SELECT body FROM documents WHERE {where}", values)
                found["lite"] += len([json.loads(body) for (body,) in answer])

        def ask_dict(queries: list[Query] = queries, found: dict[str, int] = found) -> None:
            for query in queries[:10]:
                found["dict"] += sum(query.matches(row) for row in plain.values())  # type: ignore[arg-type]

        ours = cpu(lambda ask=ask_ours: trio.run(ask))  # type: ignore[misc]
        theirs, scan = cpu(ask_lite), cpu(ask_dict) * QUERIES / 10
        assert found["ours"] == found["lite"]
        figures.append(
            {
                "what": what,
                "documents_found": found["ours"] // QUERIES,
                "queries_a_second": round(QUERIES / ours),
                "sqlite": round(QUERIES / theirs),
                "dict_scan": round(QUERIES / scan),
                "ratio_to_sqlite": round(theirs / ours, 4),
                "ratio_to_dict_scan": round(scan / ours, 2),
            }
        )
    lite.close()
    database.close()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    lines = [measure_reconciliation(arguments.documents, differences) for differences in (0, 10, 1000)]
    with TemporaryDirectory() as folder:
        lines += measure_store(arguments.documents, Path(folder))
    for line in lines:
        print(json.dumps(line))
    if arguments.out is not None:
        about = {"version": __version__, "python": platform.python_version(), "machine": platform.machine()}
        arguments.out.write_text(json.dumps({**about, "figures": lines}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
