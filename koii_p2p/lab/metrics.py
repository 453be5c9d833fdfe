"""The numbers of a report, from the tables of a run, or of many together: each with its meaning, unit and interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from koii_p2p.lab.clockwork import SECOND
from koii_p2p.lab.result import (
    Cell,
    Frame,
    Metric,
    mean_interval,
    proportion,
    quantile,
    rows_of,
)

Tables = dict[str, Frame]
Row = dict[str, Cell]


def metrics_of(tables: Tables, wanted: Sequence[str] = ()) -> tuple[Metric, ...]:
    """All metrics of some tables, or those that are wanted: by name, or by what is before the dot of the name."""
    found = [metric for make in _MAKERS for metric in make(tables)]
    return tuple(
        metric
        for metric in found
        if not wanted or metric.name in wanted or metric.name.split(".")[0] in wanted
    )


# --- what makes them


def _audits(tables: Tables) -> Iterable[Metric]:
    rounds = list(rows_of(tables["rounds"]))
    frauds = _sum(rounds, "frauds")
    right = _sum(rounds, "submissions") - frauds
    yield proportion(
        "detection",
        _sum(rounds, "found"),
        frauds,
        "wrong submissions that an honest node called INVALID in the committed records",
    )
    yield proportion(
        "punishment", _sum(rounds, "rejected"), frauds, "wrong submissions that were REJECTED, and slashed"
    )
    yield proportion(
        "paid_fraud",
        _sum(rounds, "approved_frauds"),
        frauds,
        "wrong submissions that were APPROVED, and paid",
    )
    yield proportion(
        "wrong_rejections", _sum(rounds, "wrongly_rejected"), right, "right submissions that were REJECTED"
    )
    honest = sum(1 for row in rows_of(tables["nodes"]) if not row["misbehaves"])
    yield proportion(
        "wrong_slashes",
        _sum(rounds, "wrongly_slashed"),
        max(honest * _distinct(rounds), _sum(rounds, "wrongly_slashed")),
        "honest nodes that a round's list takes stake from, of all honest nodes in all rounds",
    )
    yield proportion(
        "vote_coverage",
        _sum(rounds, "votes_cast"),
        _sum(rounds, "votes_due"),
        "audits given to honest nodes whose vote is in the committed records",
    )
    looked = [row for row in rows_of(tables["submissions"]) if not row["canary"]]
    yield proportion(
        "wrong_work",
        sum(1 for row in looked if row["fraud"]),
        len(looked),
        "submissions that are wrong, canaries not among them",
    )
    yield _mean("looks", [_int(row["looks"]) for row in looked], "looks", "honest looks at one submission")
    yield proportion(
        "unseen",
        sum(1 for row in looked if not row["looks"]),
        len(looked),
        "submissions that no honest node looked at",
    )


def _votes(tables: Tables) -> Iterable[Metric]:
    of_node = dict(zip(tables["nodes"]["node"], tables["nodes"]["behaviour"], strict=True))
    cast, wrong, caught = Counter[str](), Counter[str](), Counter[str]()
    columns = (tables["votes"][name] for name in ("auditor", "right", "caught", "committed"))
    for auditor, right, was_caught, committed in zip(*columns, strict=True):
        if committed:
            behaviour = str(of_node[auditor])
            cast[behaviour] += 1
            wrong[behaviour] += not right
            caught[behaviour] += bool(was_caught)
    for behaviour in sorted(cast):
        yield proportion(
            f"wrong_votes.{behaviour}",
            wrong[behaviour],
            cast[behaviour],
            f"committed votes of {behaviour} nodes that are not what a diligent look comes to",
        )
        yield proportion(
            f"caught_votes.{behaviour}",
            caught[behaviour],
            cast[behaviour],
            f"committed votes of {behaviour} nodes that the outcome contradicts: VALID on what a dispute REJECTED or "
            "on a CANARY that was found, INVALID on what is APPROVED",
        )


def _by_behaviour(tables: Tables) -> Iterable[Metric]:
    nodes, submissions = list(rows_of(tables["nodes"])), list(rows_of(tables["submissions"]))
    rounds = _distinct(list(rows_of(tables["rounds"])))
    for behaviour in sorted({str(row["behaviour"]) for row in nodes}):
        own = [row for row in nodes if row["behaviour"] == behaviour]
        yield proportion(
            f"overruled.{behaviour}",
            _sum(own, "overruled"),
            len(own) * rounds,
            f"rounds in which a {behaviour} node is OVERRULED as an auditor, of all rounds",
        )
        yield _mean(
            f"reputation.{behaviour}",
            [_int(row["reputation"]) for row in own],
            "basis points",
            f"score of a {behaviour} node when the last round has settled: 10000 is flawless",
        )
        work = [row for row in submissions if row["behaviour"] == behaviour]
        yield proportion(
            f"audited.{behaviour}",
            sum(1 for row in work if row["auditors"]),
            len(work),
            f"submissions of {behaviour} nodes for which auditors were drawn",
        )


def _times(tables: Tables) -> Iterable[Metric]:
    waited = [
        (_int(row["found_us"]) - _int(row["made_us"])) / SECOND
        for row in rows_of(tables["submissions"])
        if row["fraud"] and row["found_us"] is not None
    ]
    what = "virtual time from the publication of a wrong submission to the first honest vote against it"
    yield _mean("time_to_detection", waited, "s", what)
    yield _quantile("time_to_detection_p50", waited, 0.5, "s", f"median of the {what}")
    yield _quantile("time_to_detection_p99", waited, 0.99, "s", f"99th percentile of the {what}")


def _rounds(tables: Tables) -> Iterable[Metric]:
    rounds = list(rows_of(tables["rounds"]))
    settled = sum(1 for row in rounds if row["attempt"] is not None)
    yield proportion("settled", settled, len(rounds), "rounds whose list stands on K2")
    first = sum(1 for row in rounds if row["attempt"] == 0)
    yield proportion("settled_at_once", first, len(rounds), "rounds whose first list stands on K2")
    splits = sum(1 for row in rounds if _int(row["lists"]) > 1)
    yield proportion("splits", splits, len(rounds), "rounds of which honest nodes hold different lists final")


def _gossip(tables: Tables) -> Iterable[Metric]:
    messages = list(rows_of(tables["messages"]))
    reached = _sum(messages, "reached")
    yield proportion(
        "delivery",
        min(reached, _sum(messages, "running")),
        _sum(messages, "running"),
        "of the nodes that ran when a record was published, those that took it in at any time",
    )
    for share, name in ((50, "p50_us"), (99, "p99_us")):
        times = [_int(row[name]) / 1000 for row in messages if row[name] is not None]
        yield _quantile(
            f"propagation_p{share}",
            times,
            0.5,
            "ms",
            f"time until {share} of 100 of the nodes that a record reached had it: the median over records",
        )
    slowest = [_int(row["last_us"]) / 1000 for row in messages if row["last_us"] is not None]
    yield _quantile(
        "propagation_last",
        slowest,
        0.99,
        "ms",
        "time until the last node had a record: 99th percentile over records",
    )
    nodes = list(rows_of(tables["nodes"]))
    heard = _sum(nodes, "heard")
    yield Metric(
        "duplicates",
        _sum(nodes, "duplicates") / heard if heard else None,
        "messages",
        "gossip messages that a node had already, for each that it had not",
        heard,
    )


def _costs(tables: Tables) -> Iterable[Metric]:
    rounds = max(1, _distinct(list(rows_of(tables["rounds"]))))
    nodes = list(rows_of(tables["nodes"]))
    for name, column, unit, what in (
        (
            "sent_bytes",
            "sent_bytes",
            "bytes",
            "bytes that a node sent to peers in a round, transport's own not among them",
        ),
        ("received_bytes", "received_bytes", "bytes", "bytes that a node received from peers in a round"),
        ("cpu", "cpu_us", "us", "modelled processor time of a node in a round"),
        ("verified", "verified", "signatures", "signatures that a node checked in a round"),
    ):
        yield _mean(name, [_int(row[column]) / rounds for row in nodes], unit, what)


def _chain(tables: Tables) -> Iterable[Metric]:
    rounds = list(rows_of(tables["rounds"]))
    for name, column, unit, what in (
        ("transactions", "transactions", "transactions", "commitments, lists and vetoes on K2 for a round"),
        ("chain_bytes", "chain_bytes", "bytes", "bytes of those on K2 for a round"),
        ("fees", "fees", "Roe", "fees of those for a round"),
        ("settlements", "settlements", "transactions", "leaves proved to K2 for a round to take slashes"),
    ):
        yield _mean(name, [_int(row[column]) for row in rounds], unit, what)
    said = [_int(row["submissions"]) + _int(row["ballots"]) + _int(row["challenges"]) for row in rounds]
    yield _mean(
        "records",
        said,
        "records",
        "submissions, ballots, reveals and challenges of a round: what would be transactions if each were one",
    )


def _profits(tables: Tables) -> Iterable[Metric]:
    nodes = list(rows_of(tables["nodes"]))
    rounds = max(1, _distinct(list(rows_of(tables["rounds"]))))
    for behaviour in sorted({str(row["behaviour"]) for row in nodes}):
        own = [_int(row["profit"]) / rounds for row in nodes if row["behaviour"] == behaviour]
        yield _mean(
            f"profit.{behaviour}",
            own,
            "Roe",
            f"rewards less slashes, costs and fees in a round, {behaviour} nodes",
        )


_MAKERS: Final[tuple[Callable[[Tables], Iterable[Metric]], ...]] = (
    _audits,
    _votes,
    _by_behaviour,
    _times,
    _rounds,
    _gossip,
    _costs,
    _chain,
    _profits,
)


def _mean(name: str, values: Sequence[float], unit: str, definition: str) -> Metric:
    if not values:
        return Metric(name, None, unit, definition)
    mean, low, high = mean_interval(values)
    low = low if min(values) < 0 else max(low, 0.0)
    return Metric(name, mean, unit, definition, len(values), low, high)


def _quantile(name: str, values: Sequence[float], share: float, unit: str, definition: str) -> Metric:
    value = quantile(values, share) if values else None
    return Metric(name, value, unit, definition, len(values))


def _sum(rows: Iterable[Row], column: str) -> int:
    return sum(_int(row[column]) for row in rows)


def _int(value: Cell) -> int:
    return value if isinstance(value, int) else 0


def _distinct(rounds: Sequence[Row]) -> int:
    return len({row["round"] for row in rounds})
