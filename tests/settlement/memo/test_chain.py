"""The canonical chain among memos: the program's rules, first come; what does not count changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.settlement.history import ChainEntry, replay
from koii_p2p.settlement.instructions import AnchorCommitment, AnchorList, Tag
from koii_p2p.settlement.layouts import ROUND_RING
from koii_p2p.settlement.memo.chain import Entry, LinkFault, MemoChain, fold
from koii_p2p.settlement.memo.genesis import Genesis
from koii_p2p.settlement.memo.records import NO_LINK, MemoRecord
from koii_p2p.settlement.refusals import ProgramError

from ..virtual_chain import KOII, keypair
from .memo_world import CLOCK, GENESIS, TASK, commitment, entry, listing, staker, veto

STRANGER = keypair("stranger")


def rounds_of(count: int, rewards: int = KOII) -> tuple[MemoChain, list[Entry]]:
    """An honest chain: commitment and list of each round, by stakers in turn."""
    chain, entries = MemoChain(GENESIS), []
    for round in range(count):
        committed = entry(
            CLOCK.delay(round).opens, round % 4, commitment(round, chain.link, digest=b"%032d" % round)
        )
        assert chain.append(committed) is None
        opens = CLOCK.distribution(round).opens
        listed = entry(opens + 1, (round + 1) % 4, listing(round, chain.link, rewards * (round + 1)))
        assert chain.append(listed) is None
        entries += [committed, listed]
    return chain, entries


def committed(round: int = 0) -> MemoChain:
    chain, _ = rounds_of(round)
    assert chain.append(entry(CLOCK.delay(round).opens, 0, commitment(round, chain.link))) is None
    return chain


def listed(round: int = 0, rewards: int = 2 * KOII) -> MemoChain:
    chain = committed(round)
    assert (
        chain.append(entry(CLOCK.distribution(round).opens, 1, listing(round, chain.link, rewards))) is None
    )
    return chain


def rejected() -> MemoChain:
    """Round 0, whose list was vetoed by 5 + 3 of 14."""
    chain = listed()
    opens = CLOCK.distribution_audit(0).opens
    assert [chain.append(entry(opens, who, veto(0))) for who in (0, 2)] == [None, None]
    assert chain.rounds[0].rejected
    return chain


def test_a_round_as_the_program_would_hold_it() -> None:
    chain = listed()
    held = chain.rounds[0]
    assert (held.commitment, held.list_root, held.reward_total) == (b"c" * 32, b"l" * 32, 2 * KOII)
    assert (held.commitment_by, held.list_by) == tuple(bytes(staker(i).pubkey()) for i in (0, 1))
    assert chain.last_list is not None
    assert (chain.last_list.root, chain.anchors, chain.settled_list) == (b"l" * 32, 2, None)


def test_heads_and_rounds_are_those_of_the_programs_history() -> None:
    chain, entries = rounds_of(20)
    replayed = replay(_as_instructions(entries))
    assert (replayed.head, replayed.anchors, replayed.last_list) == (
        chain.head,
        chain.anchors,
        chain.last_list,
    )
    assert chain.rounds == {number: replayed.rounds[number] for number in range(20 - ROUND_RING, 20)}
    assert chain.settled_list is not None
    assert chain.settled_list.round == 18, "its audit ended in the slot in which round 19 was committed to"


Case = tuple[Callable[[], MemoChain], Callable[[MemoChain], Entry], ProgramError | LinkFault]


def _commit(slot: int, who: int = 3, round: int = 0, attempt: int = 0) -> Callable[[MemoChain], Entry]:
    return lambda chain: entry(slot, who, commitment(round, chain.link, attempt))


def _list(
    slot: int, rewards: int = KOII, slashes: int = 0, who: int = 3, round: int = 0, attempt: int = 0
) -> Callable[[MemoChain], Entry]:
    return lambda chain: entry(slot, who, listing(round, chain.link, rewards, slashes, attempt))


def _new() -> MemoChain:
    return MemoChain(GENESIS)


def _retried() -> MemoChain:
    chain = rejected()
    assert chain.append(_commit(RETRY.opens, 3, attempt=1)(chain)) is None
    return chain


COMMIT, LIST, AUDIT = CLOCK.commitment(0), CLOCK.distribution(0), CLOCK.distribution_audit(0)
RETRY = CLOCK.commitment(0, 1)
E = ProgramError

CASES: dict[str, Case] = {
    "commitment early": (_new, _commit(COMMIT.opens - 1), E.COMMITMENT_EARLY),
    "commitment late": (_new, _commit(COMMIT.closes), E.COMMITMENT_LATE),
    "second commitment": (committed, _commit(COMMIT.opens + 1), E.COMMITMENT_EXISTS),
    "commitment of a stranger": (
        _new,
        lambda chain: entry(COMMIT.opens, STRANGER, commitment(0, chain.link)),
        E.ANCHORER_BELOW_MINIMUM,
    ),
    "retry of nothing": (_new, _commit(RETRY.opens, attempt=1), E.WRONG_ATTEMPT),
    "retry of what stands": (listed, _commit(RETRY.opens, attempt=1), E.WRONG_ATTEMPT),
    "retry twice": (_retried, _commit(RETRY.opens, 1, attempt=1), E.COMMITMENT_EXISTS),
    "retry by its committer": (rejected, _commit(RETRY.opens, 0, attempt=1), E.BARRED),
    "retry by its lister": (rejected, _commit(RETRY.opens, 1, attempt=1), E.BARRED),
    "attempts used up": (rejected, _commit(CLOCK.commitment(0, 3).opens, 3, attempt=3), E.ATTEMPTS_USED_UP),
    "list early": (committed, _list(LIST.opens - 1), E.LIST_EARLY),
    "list late": (committed, _list(LIST.closes), E.LIST_LATE),
    "list without commitment": (_new, _list(LIST.opens), E.NO_COMMITMENT),
    "second list": (listed, _list(LIST.opens + 1), E.LIST_EXISTS),
    "list of another attempt": (_retried, _list(CLOCK.distribution(0, 2).opens, attempt=2), E.WRONG_ATTEMPT),
    "list by a barred key": (_retried, _list(RETRY.opens, who=1, attempt=1), E.BARRED),
    "totals go down": (
        lambda: committed(1),
        _list(CLOCK.distribution(1).opens, rewards=KOII - 1, round=1),
        E.TOTALS_DECREASE,
    ),
    "above the bounty": (committed, _list(LIST.opens, rewards=3 * KOII + 1), E.REWARDS_ABOVE_BOUNTY),
    "above the stakes": (committed, _list(LIST.opens, slashes=14 * KOII + 1), E.SLASHES_ABOVE_STAKES),
    "veto early": (listed, lambda _: entry(AUDIT.opens - 1, 3, veto(0)), E.VETO_EARLY),
    "veto late": (listed, lambda _: entry(AUDIT.closes, 3, veto(0)), E.VETO_LATE),
    "veto of nothing": (_new, lambda _: entry(AUDIT.opens, 3, veto(0)), E.NO_COMMITMENT),
    "veto of a later attempt": (
        rejected,
        lambda _: entry(CLOCK.distribution_audit(0, 1).opens, 3, veto(0, 1)),
        E.WRONG_ATTEMPT,
    ),
    "veto of a rejected list": (rejected, lambda _: entry(AUDIT.opens, 3, veto(0)), E.ALREADY_REJECTED),
    "veto of another root": (
        listed,
        lambda _: entry(AUDIT.opens, 3, veto(0, digest=b"x" * 32)),
        LinkFault.OTHER_LIST,
    ),
    "veto of another commitment": (
        listed,
        lambda _: entry(AUDIT.opens, 3, veto(0, commitment=b"x" * 32)),
        LinkFault.OTHER_LIST,
    ),
    "link to an earlier head": (
        committed,
        lambda _: entry(LIST.opens, 3, listing(0, NO_LINK)),
        LinkFault.STALE,
    ),
    "link to nothing": (
        committed,
        lambda _: entry(LIST.opens, 3, listing(0, b"?" * 16)),
        LinkFault.UNKNOWN,
    ),
}


@pytest.mark.parametrize(("start", "make", "why"), CASES.values(), ids=list(CASES))
def test_what_does_not_count(
    start: Callable[[], MemoChain], make: Callable[[MemoChain], Entry], why: ProgramError | LinkFault
) -> None:
    chain = start()
    before = _state(chain)
    assert chain.append(make(chain)) is why
    assert _state(chain) == before


def test_a_veto_counts_once() -> None:
    chain = listed()
    assert chain.append(entry(AUDIT.opens, 3, veto(0))) is None
    assert chain.append(entry(AUDIT.opens, 3, veto(0))) is ProgramError.ALREADY_VETOED
    assert chain.rounds[0].veto_stake == 2 * KOII


def test_half_is_not_a_majority() -> None:
    chain = listed()
    for who in (0, 3):  # 7 of 14
        assert chain.append(entry(AUDIT.opens, who, veto(0))) is None
    assert (chain.rounds[0].rejected, chain.rounds[0].veto_stake) == (False, 7 * KOII)


def test_a_rejected_list_is_replaced_by_somebody_elses() -> None:
    chain = rejected()
    assert (chain.last_list, chain.anchors) == (None, 3)
    assert chain.append(entry(RETRY.opens, 2, commitment(0, chain.link, 1, b"d" * 32))) is None
    assert chain.append(entry(RETRY.opens, 3, listing(0, chain.link, KOII, 0, 1, b"m" * 32))) is None
    held = chain.rounds[0]
    assert (held.attempt, held.commitment, held.list_root, held.rejected) == (1, b"d" * 32, b"m" * 32, False)
    assert held.barred == tuple(bytes(staker(i).pubkey()) for i in (0, 1))


def test_a_round_without_a_list_can_be_vetoed() -> None:
    chain = committed()
    for who in (0, 2):
        assert chain.append(entry(AUDIT.opens, who, veto(0, digest=bytes(32)))) is None
    assert chain.rounds[0].rejected
    assert chain.append(entry(RETRY.opens, 1, commitment(0, chain.link, 1))) is None


def test_a_late_retry_comes_behind_the_next_rounds_list() -> None:
    chain = _retried()
    assert chain.append(entry(RETRY.opens, 2, listing(0, chain.link, KOII, 0, 1, b"m" * 32))) is None
    assert chain.append(entry(CLOCK.commitment(1).opens, 0, commitment(1, chain.link))) is None
    assert chain.append(entry(CLOCK.distribution(1).opens, 1, listing(1, chain.link, KOII))) is None
    audit = CLOCK.distribution_audit(0, 1).opens
    against = [entry(audit, who, veto(0, 1, b"m" * 32)) for who in (0, 1)]
    assert [chain.append(one) for one in against] == [None, None]
    assert chain.last_list is not None
    assert chain.last_list.round == 1
    assert chain.append(entry(audit, 0, commitment(0, chain.link, 2))) is None
    late = entry(audit, 0, listing(0, chain.link, KOII, 0, 2))
    assert chain.append(late) is ProgramError.LIST_ORDER


def test_no_more_than_was_pledged_and_slashed() -> None:
    poor = Genesis.make(GENESIS.terms, GENESIS.stakes, pledged=KOII)
    task = poor.terms.task[:24]
    chain = MemoChain(poor)
    first = MemoRecord(Tag.ANCHOR_COMMITMENT, 0, 0, b"c" * 32, NO_LINK, task)
    assert chain.append(entry(COMMIT.opens, 0, first)) is None
    for rewards, slashes, why in ((2 * KOII + 1, KOII, E.REWARDS_ABOVE_VAULT), (2 * KOII, KOII, None)):
        record = MemoRecord(Tag.ANCHOR_LIST, 0, 0, b"l" * 32, chain.link, task, rewards, slashes)
        assert chain.append(entry(LIST.opens, 1, record)) is why


def test_a_doubter_who_goes_on_with_this_chain_doubts_no_more() -> None:
    chain = MemoChain(GENESIS)
    for who in (0, 1):
        lost = entry(COMMIT.opens, who, commitment(0, b"?" * 16))
        assert chain.append(lost) is LinkFault.UNKNOWN
    assert chain.doubted_by == 9 * KOII
    assert chain.append(_commit(COMMIT.opens, 0)(chain)) is None
    assert chain.doubted_by == 4 * KOII
    late = entry(LIST.opens, 1, listing(0, NO_LINK))
    assert chain.append(late) is LinkFault.STALE
    assert chain.doubted_by == 0


def test_only_the_creator_announces_and_once() -> None:
    def announce(who: object, digest: bytes = GENESIS.digest) -> Entry:
        return entry(950, who, MemoRecord(Tag.CREATE_TASK, 0, 0, digest, NO_LINK, TASK[:24]))  # type: ignore[arg-type]

    chain = MemoChain(GENESIS)
    assert chain.append(announce(0)) is ProgramError.WRONG_TASK_ADDRESS
    assert chain.append(announce(keypair("payer"), b"x" * 32)) is ProgramError.WRONG_TASK_ADDRESS
    assert chain.append(announce(keypair("payer"))) is None
    assert chain.append(announce(keypair("payer"))) is ProgramError.ALREADY_EXISTS
    assert (chain.created_slot, chain.anchors, chain.doubted_by) == (950, 0, 0)


def test_of_conflicting_records_the_first_counts() -> None:
    rivals = [entry(COMMIT.opens, who, commitment(0, NO_LINK, digest=b"%032d" % who)) for who in range(3)]
    for order in permutations(rivals):
        chain = fold(GENESIS, order)
        assert chain.rounds[0].commitment == order[0].record.digest
        assert [one.refusal for one in chain.judged] == [None, *[ProgramError.COMMITMENT_EXISTS] * 2]


# -- at random


def _state(chain: MemoChain) -> tuple[object, ...]:
    return (
        chain.head,
        chain.anchors,
        dict(chain.rounds),
        chain.last_list,
        chain.settled_list,
        chain.created_slot,
    )


def _as_instructions(entries: list[Entry]) -> list[ChainEntry]:
    built = []
    for one in entries:
        record = one.record
        instruction = (
            AnchorCommitment(TASK, one.author, record.round, record.attempt, record.digest)
            if record.kind is Tag.ANCHOR_COMMITMENT
            else AnchorList(
                TASK,
                one.author,
                record.round,
                record.attempt,
                record.digest,
                record.reward_total,
                record.slash_total,
            )
        )
        built.append(ChainEntry(one.slot, one.signature, None, instruction, one.author))
    return built


HONEST, HONEST_ENTRIES = rounds_of(6)
LINKS = [NO_LINK, b"?" * 16, *[fold(GENESIS, HONEST_ENTRIES[:n]).link for n in range(1, 13)]]

noise = st.builds(
    MemoRecord,
    st.sampled_from([Tag.ANCHOR_COMMITMENT, Tag.VETO]),
    st.integers(0, 8),
    st.integers(0, 3),
    st.sampled_from([b"c" * 32, b"l" * 32, b"x" * 32, b"%032d" % 2]),
    st.sampled_from(LINKS),
    st.just(TASK[:24]),
) | st.builds(
    MemoRecord,
    st.just(Tag.ANCHOR_LIST),
    st.integers(0, 8),
    st.integers(0, 3),
    st.sampled_from([b"l" * 32, b"x" * 32]),
    st.sampled_from(LINKS),
    st.just(TASK[:24]),
    st.integers(0, 20 * KOII),
    st.integers(0, 20 * KOII),
)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 13), st.integers(0, 4), noise), max_size=40))
def test_strangers_change_nothing_and_stakers_only_what_is_free(
    spam: list[tuple[int, int, MemoRecord]],
) -> None:
    """Noise behind any of the honest records: no stranger ever counts, and refused records leave no trace."""
    entries: list[Entry] = []
    for place, honest in enumerate([*HONEST_ENTRIES, None]):
        slot = honest.slot if honest is not None else HONEST_ENTRIES[-1].slot
        for where, who, record in spam:
            if where == place:
                entries.append(
                    entry(max(slot, 1), STRANGER if who == 4 else who, record, f"spam {len(entries)}")
                )
        if honest is not None:
            entries.append(honest)
    chain = fold(GENESIS, entries)
    counted = [one.entry for one in chain.judged if one.refusal is None]
    assert _state(fold(GENESIS, counted)) == _state(chain)
    assert all(one.author in GENESIS.amounts for one in counted)
    places = [
        (one.record.kind, one.record.round, one.record.attempt)
        for one in counted
        if one.record.kind is not Tag.VETO
    ]
    assert len(places) == len(set(places)), "one commitment and one list per attempt"
    strangers = [one for one in entries if one.author not in GENESIS.amounts]
    assert _state(fold(GENESIS, [one for one in entries if one not in strangers])) == _state(chain)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 12), noise), max_size=20), st.randoms(use_true_random=False))
def test_what_strangers_and_latecomers_send_leaves_the_honest_chain(
    spam: list[tuple[int, MemoRecord]], random: object
) -> None:
    """Spam of strangers anywhere, conflicts of stakers behind what they conflict with: the honest chain stands."""
    entries: list[Entry] = []
    for place, honest in enumerate(HONEST_ENTRIES):
        entries += [entry(honest.slot, STRANGER, record) for where, record in spam if where == place]
        entries.append(honest)
        rival = MemoRecord(
            honest.record.kind, honest.record.round, 0, b"x" * 32, honest.record.link, TASK[:24]
        )
        entries += [entry(honest.slot, who, rival) for who in range(len(spam) % 4)]
    assert _state(fold(GENESIS, entries)) == _state(HONEST)


@settings(max_examples=60)
@given(st.sets(st.integers(0, 11), min_size=1, max_size=11))
def test_a_missing_record_is_noticed_or_the_chain_ends_before_it(missing: set[int]) -> None:
    """Nothing after a gap counts as if nothing were missing: the state is that of some honest prefix."""
    shown = [one for place, one in enumerate(HONEST_ENTRIES) if place not in missing]
    chain = fold(GENESIS, shown)
    first = min(missing)
    assert _state(chain) == _state(fold(GENESIS, HONEST_ENTRIES[:first]))
    commitments_after = [
        one
        for one in shown
        if one.record.kind is Tag.ANCHOR_COMMITMENT and one.slot > HONEST_ENTRIES[first].slot
    ]
    behind = [one for one in commitments_after if one.record.link != chain.link]
    assert (chain.doubted_by > 0) == bool(behind)
    if first == 0 and len({one.author for one in behind}) >= 3:
        assert 2 * chain.doubted_by > GENESIS.total_stake


@settings(max_examples=60)
@given(st.permutations(range(12)))
def test_records_in_another_order_never_make_another_valid_round(order: list[int]) -> None:
    """Landed in another order (slots rising with it), records still only count where they continue the chain."""
    entries = [HONEST_ENTRIES[place] for place in order]
    chain = fold(GENESIS, entries)
    counted = [one.entry for one in chain.judged if one.refusal is None]
    assert counted == HONEST_ENTRIES[: len(counted)]
