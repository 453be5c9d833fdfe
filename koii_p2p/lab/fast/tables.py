"""Rounds that were played as the tables of a result: the columns that the exact engine fills, by the same meanings.

What frames and signatures cost is computed and not played: every record is verified by everybody once, and sent along
the mesh. Presences, heartbeats, reconciliation and bundles are not in it, nor what waits for other records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

import numpy as np

from koii_p2p.gossip import wire
from koii_p2p.gossip.wire import Message
from koii_p2p.lab.chain import SETTLEMENT
from koii_p2p.lab.conduct import conduct_of
from koii_p2p.lab.costs import cpu_us
from koii_p2p.lab.fast.crew import Numbers, Shares
from koii_p2p.lab.fast.mesh import Arrivals
from koii_p2p.lab.fast.play import Play, Played
from koii_p2p.lab.fast.verdicts import INVALID, VALID, Votes
from koii_p2p.lab.observer import Meter
from koii_p2p.lab.result import MESSAGES, NODES, ROUNDS, SUBMISSIONS, VOTES, Cell, Frame, add_row, empty
from koii_p2p.lab.scenario import Transport
from koii_p2p.lab.transactions import bytes_of, signatures_of, transactions_of
from koii_p2p.lab.work import VALUE_BYTES
from koii_p2p.records.cid import cid_of
from koii_p2p.records.envelope import sign
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import (
    Ballot,
    BallotEntry,
    BallotReveal,
    Body,
    Challenge,
    CommitmentNotice,
    Kind,
    ListNotice,
    ListVote,
    Statement,
    Submission,
    Verdict,
)
from koii_p2p.rounds.audit_rules import Profile
from koii_p2p.rounds.tally import CONTRADICTED, Outcome

_DIGEST = sha256(b"a digest of that length").digest()
_SECRET = SecretKey.from_seed(_DIGEST)
_STAGE_FIRST, _STAGE_FULL, _STAGE_CHALLENGE = 0, 1, 2
_VERDICT_NAMES = {int(verdict): verdict.name for verdict in Verdict}


@dataclass(frozen=True, slots=True)
class _Records:
    """Records of one kind and round: who published each, when (us), and how many votes are in it."""

    kind: Kind
    author: Numbers
    sent: Numbers
    entries: Numbers


def tables_of(play: Play, played: Sequence[Played]) -> dict[str, Frame]:
    """The tables of a run, by name."""
    rounds, submissions, votes = empty(ROUNDS), empty(SUBMISSIONS), empty(VOTES)
    for one in played:
        add_row(rounds, _round_row(play, one))
        _extend(submissions, _submission_columns(play, one))
        for stage, said in _stages(one):
            _extend(votes, _vote_columns(play, one, stage, said))
    spoken = [(one.number, records) for one in played for records in _spoken(play, one)]
    return {
        "rounds": rounds,
        "submissions": submissions,
        "nodes": _nodes(play, played, spoken),
        "votes": votes,
        "messages": _messages(play, spoken),
    }


def _stages(one: Played) -> tuple[tuple[int, Votes], ...]:
    return (
        (_STAGE_FIRST, one.first),
        (_STAGE_FULL, one.full),
        (_STAGE_CHALLENGE, one.challenges),
    )


def _extend(frame: Frame, columns: dict[str, list[Cell]]) -> None:
    for name, column in frame.items():
        column.extend(columns[name])


# --- rounds and submissions


def _round_row(play: Play, one: Played) -> dict[str, Cell]:
    honest, works = ~play.crew.misbehaves, one.works
    outcome = _outcomes(play, one)
    fraud = works.submitted & works.fraud & ~works.canary
    right = works.submitted & ~works.bad
    rejected = outcome == int(Outcome.REJECTED)
    found = np.zeros(len(honest), np.bool_)
    for _stage, votes in _stages(one):
        found[votes.author[honest[votes.auditor] & (votes.verdict == INVALID)]] = True
    due = honest[one.first.auditor] & (play.terms.audit.profile is not Profile.KOII)
    ballots, full_ballots = (
        len(np.unique(votes.auditor[votes.cast & ~one.convicted[votes.auditor]]))
        for votes in (one.first, one.full)
    )
    anchors = [landed for landed in one.landed if landed.name != SETTLEMENT]
    return {
        "round": one.number,
        "staked": len(one.roster),
        "submissions": int(works.submitted.sum()),
        "frauds": int(fraud.sum()),
        "found": int((fraud & found).sum()),
        "rejected": int((fraud & rejected).sum()),
        "wrongly_rejected": int((right & rejected).sum()),
        "wrongly_slashed": sum(
            1 for node in np.flatnonzero(honest).tolist() if one.amounts.get(play.keys[node], 0) < 0
        ),
        "approved_frauds": int((fraud & (outcome == int(Outcome.APPROVED))).sum()),
        "votes_due": int(due.sum()),
        "votes_cast": int((due & one.first.cast).sum()),
        "ballots": ballots * (1 + play.terms.audit.sealed) + full_ballots,
        "challenges": int(one.challenges.cast.sum()) + int(works.canary.sum()),
        "attempt": 0,
        "commitment_slot": one.landed[0].slot,
        "list_slot": one.landed[1].slot,
        "settled_us": play.us(play.terms.clock.settles_at(one.number)),
        "lists": 1,
        "transactions": sum(map(transactions_of, anchors)),
        "chain_bytes": sum(bytes_of(landed, len(play.keys)) for landed in anchors),
        "fees": sum(map(signatures_of, anchors)) * play.scenario.chain.fee_roe,
        "vetoes": 0,
        "settlements": sum(landed.leaves for landed in one.landed if landed.name == SETTLEMENT),
    }


def _outcomes(play: Play, one: Played) -> Numbers:
    """Outcomes by node; 0 for who did not submit."""
    found = np.zeros(len(play.keys), np.int64)
    for key, outcome in one.tally.outcomes.items():
        found[play.number_of[key]] = int(outcome)
    return found


def _submission_columns(play: Play, one: Played) -> dict[str, list[Cell]]:
    crew, works, count = play.crew, one.works, len(play.keys)
    honest = ~crew.misbehaves
    authors = np.flatnonzero(works.submitted)
    looks, finders = np.zeros(count, np.int64), np.zeros(count, np.int64)
    found_at = np.full(count, np.iinfo(np.int64).max)
    pairs: set[tuple[int, int]] = set()
    for _stage, votes in _stages(one):
        ours = honest[votes.auditor]
        looks += np.bincount(votes.author[ours & votes.looked], minlength=count)
        against = ours & (votes.verdict == INVALID)
        np.minimum.at(found_at, votes.author[against], votes.said[against])
        pairs.update(zip(votes.author[against].tolist(), votes.auditor[against].tolist(), strict=True))
    for author, _auditor in pairs:
        finders[author] += 1
    drawn = np.bincount(one.first.author, minlength=count)
    outcome = _outcomes(play, one)
    bad = works.bad[authors]
    return {
        "round": [one.number] * len(authors),
        "node": authors.tolist(),
        "behaviour": [crew.names[node] for node in authors.tolist()],
        "fraud": (works.fraud & ~works.canary)[authors].tolist(),
        "canary": works.canary[authors].tolist(),
        "catch": np.where(bad, works.catch[authors], 0.0).tolist(),
        "auditors": (
            [0] * len(authors) if play.terms.audit.profile is Profile.KOII else drawn[authors].tolist()
        ),
        "looks": looks[authors].tolist(),
        "finders": finders[authors].tolist(),
        "outcome": [Outcome(value).name for value in outcome[authors].tolist()],
        "made_us": works.made[authors].tolist(),
        "found_us": [
            when if finders[node] else None
            for node, when in zip(authors.tolist(), found_at[authors].tolist(), strict=True)
        ],
        "committed": [True] * len(authors),
        "amount": [one.amounts.get(play.keys[node], 0) for node in authors.tolist()],
    }


def _vote_columns(play: Play, one: Played, stage: int, votes: Votes) -> dict[str, list[Cell]]:
    cast = votes.cast
    verdict, author = votes.verdict[cast], votes.author[cast]
    truth = np.where(one.works.bad[author], INVALID, VALID)
    count = len(author)
    outcome, caught, due = _outcomes(play, one)[author], np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    for said, came_to in CONTRADICTED:
        caught |= (verdict == int(said)) & (outcome == int(came_to))
    if play.terms.audit.profile is not Profile.KOII:
        due = np.isin(_pair_codes(play, votes.where(cast)), _pair_codes(play, one.first))
    return {
        "round": [one.number] * count,
        "auditor": votes.auditor[cast].tolist(),
        "author": author.tolist(),
        "stage": [stage] * count,
        "verdict": [_VERDICT_NAMES[value] for value in verdict.tolist()],
        "due": due.tolist(),
        "right": (verdict == truth).tolist(),
        "said_us": votes.said[cast].tolist(),
        "committed": (~one.convicted[votes.auditor[cast]]).tolist(),
        "caught": caught.tolist(),
    }


def _pair_codes(play: Play, votes: Votes) -> Numbers:
    codes: Numbers = votes.author * len(play.keys) + votes.auditor
    return codes


# --- records on their way


def _spoken(play: Play, one: Played) -> Iterator[_Records]:
    """The records that were said of a round."""
    authors = np.flatnonzero(one.works.submitted)
    yield _Records(Kind.SUBMISSION, authors, one.works.made[authors], np.zeros(len(authors), np.int64))
    first = _ballots(one.first, Kind.BALLOT_REVEAL if play.terms.audit.sealed else Kind.BALLOT)
    if play.terms.audit.sealed:
        window = play.terms.clock.seals(one.number)
        sealed = play.us((window.opens + window.closes) // 2)
        yield _Records(Kind.BALLOT, first.author, np.full(len(first.author), sealed), first.entries * 0)
    yield first
    yield _ballots(one.full, Kind.BALLOT)
    cast = one.challenges.cast
    yield _Records(
        Kind.CHALLENGE,
        one.challenges.auditor[cast],
        one.challenges.said[cast],
        np.ones(int(cast.sum()), np.int64),
    )
    clock = play.terms.clock
    leader = np.array([play.number_of[one.leader]])
    for kind, landed in zip((Kind.COMMITMENT_NOTICE, Kind.LIST_NOTICE), one.landed, strict=False):
        yield _Records(kind, leader, np.array([play.us(landed.slot)]), leader * 0)
    stakers = np.array([play.number_of[key] for key in one.roster.keys])
    voted = play.us(clock.distribution_audit(one.number).spoken.opens)
    yield _Records(Kind.LIST_VOTE, stakers, np.full(len(stakers), voted), stakers * 0)


def _ballots(votes: Votes, kind: Kind) -> _Records:
    author, first, entries = np.unique(votes.auditor[votes.cast], return_index=True, return_counts=True)
    return _Records(kind, author, votes.said[votes.cast][first], entries)


def _messages(play: Play, spoken: Sequence[tuple[int, _Records]]) -> Frame:
    frame = empty(MESSAGES)
    reached, median, late, last = _spread(play.arrivals)
    running = len(play.keys) - 1
    for number, records in spoken:
        authors = records.author
        count = len(authors)
        times: dict[str, list[Cell]] = {
            name: [
                int(value) if got else None for value, got in zip(of[authors], reached[authors], strict=True)
            ]
            for name, of in (("p50_us", median), ("p99_us", late), ("last_us", last))
        }
        _extend(
            frame,
            {
                "round": [number] * count,
                "kind": [records.kind.name] * count,
                "author": authors.tolist(),
                "size": [_record_bytes(records.kind, entries) for entries in records.entries.tolist()],
                "sent_us": records.sent.tolist(),
                "reached": reached[authors].tolist(),
                "running": [running] * count,
                **times,
            },
        )
    return frame


def _spread(arrivals: Arrivals) -> tuple[Numbers, Shares, Shares, Shares]:
    """By node: how many others its records reach, and after how long half, 99 of 100 and all of those have them."""
    nodes = len(arrivals)
    reached = np.empty(nodes, np.int64)
    times = np.zeros((3, nodes))
    for node in range(nodes):
        row = np.sort(np.delete(arrivals[node], node))
        row = row[np.isfinite(row)]
        reached[node] = len(row)
        if len(row):
            places = [int(np.ceil(share * len(row))) - 1 for share in (0.5, 0.99, 1.0)]
            times[:, node] = row[places]
    return reached, times[0], times[1], times[2]


@lru_cache(maxsize=4096)
def _record_bytes(kind: Kind, entries: int) -> int:
    """Bytes of a record with so many votes: of one that was really signed and encoded."""
    votes = tuple(BallotEntry(sha256(b"%d" % number).digest(), Verdict.VALID) for number in range(entries))
    votes = tuple(sorted(votes, key=lambda entry: entry.submission_id))
    body: Body
    match kind:
        case Kind.SUBMISSION:
            body = Submission("x" * VALUE_BYTES)
        case Kind.CHALLENGE:
            body = Challenge(_DIGEST, _DIGEST)
        case Kind.BALLOT_REVEAL:
            body = BallotReveal(_DIGEST, votes)
        case Kind.COMMITMENT_NOTICE:
            body = CommitmentNotice(_DIGEST, cid_of(_DIGEST), _DIGEST * 2)
        case Kind.LIST_NOTICE:
            body = ListNotice(_DIGEST, cid_of(_DIGEST), 1 << 40, 1 << 40, _DIGEST * 2)
        case Kind.LIST_VOTE:
            body = ListVote(_DIGEST, True, 0)
        case _:
            body = Ballot(votes) if votes else Ballot(seal=_DIGEST)
    return len(sign(Statement(_DIGEST, 1, 200, 0, body), _DIGEST, _SECRET).raw)


@lru_cache(maxsize=4096)
def _frame_bytes(record_bytes: int) -> int:
    """Bytes of the gossip frame around a record."""
    topic = f"/koii-p2p/1/{_DIGEST.hex()[:44]}/submissions"
    return len(wire.frame(wire.message_part(wire.encode_message(Message(topic, bytes(record_bytes))))))


# --- nodes


def _nodes(play: Play, played: Sequence[Played], spoken: Sequence[tuple[int, _Records]]) -> Frame:
    crew, economy, count = play.crew, play.scenario.economy, len(play.keys)
    own_records, own_bytes = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for _number, records in spoken:
        sizes = [_frame_bytes(_record_bytes(records.kind, entries)) for entries in records.entries.tolist()]
        np.add.at(own_records, records.author, 1)
        np.add.at(own_bytes, records.author, np.array(sizes, np.int64))
    traffic = _traffic(play, own_records, own_bytes)
    audits, works = np.zeros(count, np.int64), np.zeros(count, np.int64)
    transactions, fees = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for one in played:
        for _stage, votes in _stages(one):
            audits += np.bincount(votes.auditor[votes.looked], minlength=count)
        works += one.works.submitted & ~one.works.bad
        for landed in one.landed:
            transactions[play.number_of[landed.by]] += transactions_of(landed)
            fees[play.number_of[landed.by]] += signatures_of(landed) * play.scenario.chain.fee_roe
    conduct = conduct_of(play.standings)
    totals = {leaf.staker: leaf for leaf in played[-1].list.leaves}
    spent = works * economy.work_cost + audits * economy.audit_cost
    reward = np.array([totals[key].reward_total if key in totals else 0 for key in play.keys], object)
    slash = np.array([totals[key].slash_total if key in totals else 0 for key in play.keys], object)
    verified = own_records.sum() - own_records
    slots = play.terms.clock.settles_at(played[-1].number) - play.terms.starting_slot
    meters = [
        Meter(
            sent_frames=sent,
            received_frames=received,
            records=records,
            verified=records,
            signed=signed,
            slots=slots,
        )
        for sent, received, records, signed in zip(
            traffic.sent.tolist(),
            traffic.received.tolist(),
            verified.tolist(),
            own_records.tolist(),
            strict=True,
        )
    ]
    frame = empty(NODES)
    columns: dict[str, list[Cell]] = {
        "node": list(range(count)),
        "key": [key.hex() for key in play.keys],
        "behaviour": list(crew.names),
        "misbehaves": crew.misbehaves.tolist(),
        "stake": [economy.stake] * count,
        "sent_bytes": traffic.sent_bytes.tolist(),
        "received_bytes": traffic.received_bytes.tolist(),
        "sent_frames": traffic.sent.tolist(),
        "duplicates": traffic.duplicates.tolist(),
        "heard": list(verified.tolist()),
        "lost_frames": [0] * count,
        "verified": verified.tolist(),
        "signed": list(own_records.tolist()),
        "audits": list(audits.tolist()),
        "cpu_us": [cpu_us(meter) for meter in meters],
        "transactions": list(transactions.tolist()),
        "fees": list(fees.tolist()),
        "reward": reward.tolist(),
        "slash": slash.tolist(),
        "spent": spent.tolist(),
        "profit": (reward - slash - spent - fees).tolist(),
        "overruled": [conduct.overruled[key] for key in play.keys],
        "reputation": [conduct.scores.get(key, 0) for key in play.keys],
    }
    _extend(frame, columns)
    return frame


@dataclass(frozen=True, slots=True)
class _Traffic:
    sent: Numbers
    sent_bytes: Numbers
    received: Numbers
    received_bytes: Numbers
    duplicates: Numbers


def _traffic(play: Play, own: Numbers, own_bytes: Numbers) -> _Traffic:
    """Frames of records that each node sends and gets: a record of others goes to its mesh but where it came from."""
    links = np.array(list(map(len, play.mesh.links)))
    mesh = np.array(list(map(len, play.mesh.mesh)))
    others, others_bytes = own.sum() - own, own_bytes.sum() - own_bytes
    if play.scenario.protocol.transport is Transport.DIRECT:
        peers = len(own) - 1
        return _Traffic(own * peers, own_bytes * peers, others, others_bytes, others * 0)
    first = links if play.scenario.protocol.flood_publish else mesh
    forwarded = np.maximum(mesh - 1, 0)
    sent, sent_bytes = own * first + others * forwarded, own_bytes * first + others_bytes * forwarded
    # What all send is what all get; whose mesh is larger gets more of it.
    share = np.maximum(mesh, 1) / np.maximum(mesh, 1).sum()
    received = (sent.sum() * share).astype(np.int64)
    received_bytes = (sent_bytes.sum() * share).astype(np.int64)
    return _Traffic(sent, sent_bytes, received, received_bytes, np.maximum(received - others, 0))
