"""Hypothesis strategies for every kind of statement, and the keys and chain that the tests sign with."""

from __future__ import annotations

from hypothesis import strategies as st

from koii_p2p.records.cid import cid_of
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import (
    Ballot,
    BallotEntry,
    BallotReveal,
    Body,
    Challenge,
    CommitmentNotice,
    Equivocation,
    ListNotice,
    ListVote,
    Presence,
    Statement,
    Submission,
    Verdict,
)

GENESIS = bytes(range(32))
TASK = b"t" * 32
ALICE = SecretKey.from_seed(b"a" * 32)
BOB = SecretKey.from_seed(b"b" * 32)


def of_bytes(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


def up_to_bytes(limit: int) -> st.SearchStrategy[str]:
    return st.text(max_size=limit).filter(lambda text: len(text.encode()) <= limit)


digests = of_bytes(32)
u64s = st.integers(0, 2**64 - 1)
cids = st.binary(max_size=8).map(cid_of)
entries = (
    st.lists(
        st.builds(BallotEntry, digests, st.sampled_from(Verdict), st.just(b"") | digests),
        max_size=6,
        unique_by=lambda entry: entry.submission_id,
    )
    .map(lambda votes: sorted(votes, key=lambda entry: entry.submission_id))
    .map(tuple)
)
bodies = st.one_of(
    st.builds(Submission, up_to_bytes(100) | st.binary(max_size=512), st.none() | cids),
    st.builds(Ballot, entries),
    st.builds(Ballot, seal=digests),
    st.builds(BallotReveal, digests, entries),
    st.builds(Challenge, digests, digests | cids),
    st.builds(CommitmentNotice, digests, cids, of_bytes(64)),
    st.builds(ListNotice, digests, cids, u64s, u64s, of_bytes(64)),
    st.builds(ListVote, digests, st.booleans(), st.integers(0, 0xFFFF)),
    st.builds(Equivocation, st.binary(min_size=1, max_size=200), st.binary(min_size=1, max_size=200)),
    st.builds(
        Presence,
        st.lists(up_to_bytes(40), max_size=16).map(tuple),
        st.integers(0, 2**32 - 1),
        up_to_bytes(64),
        u64s,
    ),
)
statements = st.builds(Statement, digests, u64s, u64s, u64s, bodies)


def statement(body: Body, *, task: bytes = TASK, round: int = 3, slot: int = 700, seq: int = 0) -> Statement:
    return Statement(task, round, slot, seq, body)
