"""Rounds read out of submissions: whatever order a state lists them in, and whatever else was submitted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.settlement.koii_task.anchors import against, newest_list, rounds_in
from koii_p2p.settlement.koii_task.state import KoiiAudit, KoiiSubmission, KoiiVote
from koii_p2p.settlement.koii_task.submission import ListAnchor, RoundAnchor

KEYS = [bytes([index]) * 32 for index in range(6)]
STAKES = dict.fromkeys(KEYS[:4], 5)
DIGESTS = [b"c" * 32, b"d" * 32]

anchors = st.builds(
    RoundAnchor,
    st.integers(2, 4),
    st.sampled_from(DIGESTS),
    st.none() | st.builds(ListAnchor, st.sampled_from(DIGESTS), st.integers(0, 9), st.integers(0, 9)),
)
submissions = st.dictionaries(
    st.sampled_from(KEYS),
    st.builds(KoiiSubmission, anchors.map(RoundAnchor.encode) | st.just("QmCid"), st.integers(100, 104)),
)


@settings(max_examples=200)
@given(submissions, st.randoms(use_true_random=False))
def test_the_order_of_the_map_does_not_count(given_: dict[bytes, KoiiSubmission], random: object) -> None:
    items = list(given_.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert rounds_in(dict(items), 3, STAKES) == rounds_in(given_, 3, STAKES)


@settings(max_examples=300)
@given(submissions)
def test_what_counts_is_the_first_of_the_staked(given_: dict[bytes, KoiiSubmission]) -> None:
    held = rounds_in(given_, 3, STAKES)
    ours = {
        key: (one.slot, RoundAnchor.decode(one.value))
        for key, one in given_.items()
        if key in STAKES and one.value != "QmCid" and RoundAnchor.decode(one.value).round == 3
    }
    if held is None:
        assert ours == {}
        return
    assert ours[held.commitment_by][1].commitment == held.commitment
    assert held.commitment_slot == min(slot for slot, _ in ours.values())
    following = [
        key for key, (_, one) in ours.items() if one.listed is not None and one.commitment == held.commitment
    ]
    assert (held.list_by in following) if following else (held.list_by is None)
    if held.list_by is not None:
        slot, anchor = ours[held.list_by]
        assert anchor.listed is not None
        assert (held.list_slot, held.list_root) == (slot, anchor.listed.root)
        assert slot == min(ours[key][0] for key in following)


@settings(max_examples=100)
@given(submissions)
def test_strangers_and_other_submissions_change_nothing(given_: dict[bytes, KoiiSubmission]) -> None:
    staked = {key: one for key, one in given_.items() if key in STAKES and one.value != "QmCid"}
    assert rounds_in(staked, 3, STAKES) == rounds_in(given_, 3, STAKES)


def test_nobody_is_against_twice() -> None:
    a, b, c = KEYS[:3]
    audit = KoiiAudit(a, 1, (KoiiVote(a, False, 1), KoiiVote(b, False, 2), KoiiVote(c, True, 3)))
    assert against(audit, raise_is_vote=True) == {a, b}
    assert against(KoiiAudit(a, 1, ()), raise_is_vote=True) == {a}
    assert against(KoiiAudit(a, 1, ()), raise_is_vote=False) == frozenset()


def test_the_newest_list_is_of_the_highest_round() -> None:
    def of(round: int, listed: bool) -> object:
        anchor = RoundAnchor(round, b"c" * 32, ListAnchor(b"l" * 32, round, 0) if listed else None)
        return rounds_in({KEYS[0]: KoiiSubmission(anchor.encode(), 1)}, round, STAKES)

    found = newest_list([of(5, True), of(7, False), of(6, True)])  # type: ignore[list-item]
    assert found is not None
    assert (found.round, found.reward_total) == (6, 6)
    assert newest_list([of(7, False)]) is None  # type: ignore[list-item]
