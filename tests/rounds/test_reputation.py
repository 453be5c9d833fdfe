from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.records.cid import cid_of
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.audit_rules import AuditRules
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.commitment import Commitment, SubmissionOutcome
from koii_p2p.rounds.leader import tickets
from koii_p2p.rounds.reputation import (
    FLAWLESS,
    ONE,
    REPUTATION_LAG,
    REPUTATION_ROUNDS,
    Reputation,
    RoundStanding,
    audit_rate,
    counts_in,
    reputations,
    standing_of,
    weight_at,
)
from koii_p2p.rounds.round_records import SECTIONS
from koii_p2p.rounds.tally import AuditorStatus, Outcome

DOCUMENT = Path(__file__).parents[2] / "docs" / "reputation.md"

KEY, OTHER = sha256(b"key").digest(), sha256(b"other").digest()
NOW = 100
NEWEST = NOW - REPUTATION_LAG

GOOD_OUTCOMES = {Outcome.APPROVED}
NEUTRAL_OUTCOMES = {Outcome.UNDECIDED, Outcome.UNAVAILABLE, Outcome.CANARY}
FAULTY_OUTCOMES = {Outcome.REJECTED, Outcome.EQUIVOCATED}

# One letter per round, oldest first, as in docs/reputation.md: what the key did as submitter and as auditor.
LETTERS: Mapping[str, tuple[Outcome | None, AuditorStatus | None]] = {
    "-": (None, None),
    "S": (Outcome.APPROVED, None),
    "D": (None, AuditorStatus.DILIGENT),
    "B": (Outcome.APPROVED, AuditorStatus.DILIGENT),
    "U": (Outcome.UNDECIDED, None),
    "C": (Outcome.CANARY, None),
    "A": (Outcome.APPROVED, AuditorStatus.ABSENT),
    "O": (Outcome.APPROVED, AuditorStatus.OVERRULED),
    "R": (Outcome.REJECTED, AuditorStatus.DILIGENT),
    "E": (Outcome.APPROVED, AuditorStatus.EQUIVOCATED),
}

Acts = tuple[Outcome | None, AuditorStatus | None]
acts = st.tuples(st.none() | st.sampled_from(Outcome), st.none() | st.sampled_from(AuditorStatus))
histories = st.lists(acts, max_size=16)


def standings(history: Iterable[Acts], key: bytes = KEY, newest: int = NEWEST) -> list[RoundStanding]:
    """The rounds of one key, oldest first, so that the last one is the newest that counts."""
    done = list(history)
    return [
        RoundStanding(
            newest - len(done) + 1 + index,
            {key: outcome} if outcome is not None else {},
            {key: status} if status is not None else {},
        )
        for index, (outcome, status) in enumerate(done)
    ]


def reputation(history: Iterable[Acts]) -> Reputation:
    return reputations(NOW, standings(history)).get(KEY, Reputation(0, 0))


def of(letters: str) -> Reputation:
    return reputation(LETTERS[letter] for letter in letters)


def test_the_decay_table_is_the_floor_of_the_formula_at_every_age() -> None:
    assert ONE == 2**16 == weight_at(0)
    for age in range(REPUTATION_ROUNDS + 8):
        assert weight_at(age) ** 4 <= 2 ** (64 - age) < (weight_at(age) + 1) ** 4
        assert weight_at(age + 4) == weight_at(age) // 2
    assert sum(map(weight_at, range(REPUTATION_ROUNDS))) == FLAWLESS == 360_413
    with pytest.raises(ValueError):
        weight_at(-1)


def test_a_new_key_has_no_trust_a_flawless_one_full_trust_and_one_good_round_little() -> None:
    assert of("").score == 0
    assert of("B" * REPUTATION_ROUNDS).score == 10_000
    assert of("B" * 40) == of("B" * REPUTATION_ROUNDS)
    assert of("B").score == 10_000 * ONE // FLAWLESS == 1818
    with pytest.raises(ValueError):
        Reputation(FLAWLESS + 1, 0)
    with pytest.raises(ValueError):
        Reputation(0, -1)


@pytest.mark.parametrize("status", [None, *AuditorStatus])
@pytest.mark.parametrize("outcome", [None, *Outcome])
def test_a_round_is_one_observation_and_the_worst_in_it_counts(
    outcome: Outcome | None, status: AuditorStatus | None
) -> None:
    found = reputation([(outcome, status)])
    if outcome in FAULTY_OUTCOMES or status is AuditorStatus.EQUIVOCATED:
        assert found == Reputation(0, 8 * ONE)
    elif status is AuditorStatus.OVERRULED:
        assert found == Reputation(0, 4 * ONE)
    elif status is AuditorStatus.ABSENT:
        assert found == Reputation(0, ONE)
    elif outcome in GOOD_OUTCOMES or status is AuditorStatus.DILIGENT:
        assert found == Reputation(ONE, 0)
    else:
        assert outcome is None or outcome in NEUTRAL_OUTCOMES
        assert found == Reputation(0, 0)


def test_every_outcome_has_a_meaning() -> None:
    assert set(Outcome) == GOOD_OUTCOMES | NEUTRAL_OUTCOMES | FAULTY_OUTCOMES


def test_a_fault_takes_all_the_good_before_it_and_none_after_it() -> None:
    assert of("B" * 11 + "R") == Reputation(0, 8 * ONE)
    assert of("B" * 8 + "RBBB").good == of("BBB").good
    assert of("B" * 8 + "RBBB").bad == 8 * weight_at(3)
    assert of("B" * 8 + "OBBB").good == of("B" * 12).good - weight_at(3)
    assert of("R" + "B" * 12) == of("B" * 12)  # too old to count


@pytest.mark.parametrize("fault", "RE")
def test_a_cheater_after_twelve_good_rounds_is_below_a_newcomer_for_as_long_as_the_fault_counts(
    fault: str,
) -> None:
    assert of("B" * 12 + fault).score == 0 < of("B").score
    for since in range(1, REPUTATION_ROUNDS):
        assert of("B" * 12 + fault + "B" * since).score < of("B" * since).score


def test_a_fault_costs_all_the_trust_and_more_than_a_good_round_earns_at_any_score() -> None:
    for length in range(1, REPUTATION_ROUNDS):
        score = of("B" * length).score
        assert score - of("B" * length + "R").score == score > of("B" * (length + 1)).score - score
    full = of("B" * 12).score
    absent, overruled, faulty = (full - of("B" * 12 + bad).score for bad in "AOR")
    assert 0 < absent < overruled < faulty == full


def test_a_witness_without_submissions_earns_all_by_auditing_alone() -> None:
    assert of("D" * REPUTATION_ROUNDS).score == 10_000
    assert of("D" * 3) == of("S" * 3) == of("B" * 3)
    assert of("D" * 3).score > 0
    found = reputations(
        NOW, [RoundStanding(NEWEST, {OTHER: Outcome.REJECTED}, {KEY: AuditorStatus.DILIGENT})]
    )
    assert found == {KEY: Reputation(ONE, 0), OTHER: Reputation(0, 8 * ONE)}


@given(histories, st.randoms(use_true_random=False))
def test_the_order_of_the_standings_does_not_matter(history: list[Acts], rng: random.Random) -> None:
    given_in_order = standings(history)
    shuffled = list(given_in_order)
    rng.shuffle(shuffled)
    assert list(reputations(NOW, shuffled).items()) == list(reputations(NOW, given_in_order).items())


@given(histories, histories)
def test_keys_do_not_influence_each_other(mine: list[Acts], others: list[Acts]) -> None:
    length = max(len(mine), len(others))
    idle: list[Acts] = [(None, None)]
    own = standings(idle * (length - len(mine)) + mine)
    foreign = standings(idle * (length - len(others)) + others, OTHER)
    together = [
        RoundStanding(a.round, {**b.outcomes, **a.outcomes}, {**b.auditors, **a.auditors})
        for a, b in zip(own, foreign, strict=True)
    ]
    assert reputations(NOW, together) == reputations(NOW, own) | reputations(NOW, foreign)


@given(st.lists(acts, min_size=1, max_size=12), st.data())
def test_more_good_never_lowers_and_more_bad_never_raises(history: list[Acts], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(history) - 1))
    outcome, status = history[index]
    score = reputation(history).score

    def with_acts(*changed: Acts) -> int:
        return reputation([*history[:index], *changed, *history[index + 1 :]]).score

    if outcome is None or outcome in NEUTRAL_OUTCOMES:
        assert with_acts((Outcome.APPROVED, status)) >= score
    if status is None:
        assert with_acts((outcome, AuditorStatus.DILIGENT)) >= score
    for faulty in FAULTY_OUTCOMES:
        assert with_acts((faulty, status)) <= score
    for worse in AuditorStatus:
        if worse > max(status or 0, AuditorStatus.DILIGENT):
            assert with_acts((outcome, worse)) <= score
    assert 0 <= score <= 10_000


@given(histories)
def test_one_more_round_moves_the_score_the_right_way(history: list[Acts]) -> None:
    idle = reputation([*history, (None, None)]).score
    assert reputation([*history, LETTERS["B"]]).score > idle
    for bad in "AOR":
        assert reputation([*history, LETTERS[bad]]).score <= idle


def test_only_the_rounds_that_count_are_looked_at() -> None:
    oldest = NEWEST - REPUTATION_ROUNDS + 1
    acts_at = {
        number: RoundStanding(number, {KEY: Outcome.APPROVED}, {}) for number in range(oldest - 5, NOW + 5)
    }
    expected = reputations(NOW, [acts_at[number] for number in range(oldest, NEWEST + 1)])
    assert reputations(NOW, acts_at.values()) == expected == {KEY: Reputation(FLAWLESS, 0)}
    assert reputations(NOW, [acts_at[oldest - 1], acts_at[NEWEST + 1]]) == {}
    assert reputations(NOW, [acts_at[oldest]])[KEY].good == weight_at(REPUTATION_ROUNDS - 1)
    assert reputations(NOW, [acts_at[NEWEST]])[KEY].good == ONE
    assert reputations(0, [RoundStanding(0, {KEY: Outcome.APPROVED}, {})]) == {}


def test_two_standings_of_one_round_are_a_mistake() -> None:
    once = RoundStanding(NEWEST, {KEY: Outcome.APPROVED}, {})
    with pytest.raises(ValueError, match=f"two standings of round {NEWEST}"):
        reputations(NOW, [once, RoundStanding(NEWEST, {}, {})])
    with pytest.raises(ValueError):
        reputations(NOW, [once, once])


def test_a_missing_round_says_nothing() -> None:
    with_gap = [standing for standing in standings([LETTERS["B"]] * 12) if standing.round != NEWEST - 3]
    assert reputations(NOW, with_gap) == {KEY: Reputation(FLAWLESS - weight_at(3), 0)}


def test_a_commitment_says_what_its_submitters_and_auditors_did() -> None:
    first, second = sorted((KEY, OTHER))
    commitment = Commitment(
        task=bytes(32),
        round=NEWEST,
        previous=bytes(32),
        beacon=bytes(32),
        roster_root=bytes(32),
        roots=(bytes(32),) * len(SECTIONS),
        counts=(0,) * len(SECTIONS),
        outcomes=(
            SubmissionOutcome(first, bytes(32), Outcome.CANARY),
            SubmissionOutcome(second, bytes(32), Outcome.EQUIVOCATED),
        ),
        auditors=((first, AuditorStatus.DILIGENT), (second, AuditorStatus.ABSENT)),
        bundle_cid=cid_of(b"bundle"),
    )
    standing = standing_of(Commitment.decode(commitment.encode()))
    assert standing == RoundStanding(
        NEWEST,
        {first: Outcome.CANARY, second: Outcome.EQUIVOCATED},
        {first: AuditorStatus.DILIGENT, second: AuditorStatus.ABSENT},
    )
    assert reputations(NOW, [standing]) == {first: Reputation(ONE, 0), second: Reputation(0, 8 * ONE)}


@given(st.integers(0, FLAWLESS), st.integers(0, 50 * ONE), st.integers(0, 10_000), st.integers(1, 10_000))
def test_the_audit_rate_falls_linearly_from_the_rules_to_the_floor(
    good: int, bad: int, floor: int, rate: int
) -> None:
    rules = AuditRules(audit_rate=rate, reputation_floor=floor)
    found = audit_rate(Reputation(good, bad), rules)
    assert audit_rate(None, rules) == audit_rate(Reputation(0, bad), rules) == rate
    if floor == 0:
        assert found == rate
        return
    lowest = min(floor, rate)
    assert lowest <= found <= rate
    assert audit_rate(Reputation(FLAWLESS, 0), rules) == lowest
    exact = rate * 10_000 - (rate - lowest) * Reputation(good, bad).score
    assert (found - 1) * 10_000 < exact <= found * 10_000
    assert audit_rate(Reputation(good, bad + ONE), rules) >= found


CLOCK = RoundClock(starting_slot=1000, round_time=100, submission_window=40, audit_window=40)


def anchored(
    slot: int, rejections: int, last_stands: bool, listed: bool, *, late: bool
) -> AnchoredRound | None:
    """What K2 holds of round 3 at a slot when so many of its attempts are rejected, each act early or late."""
    held = None
    for attempt in range(rejections + 1):
        committing = CLOCK.commitment(3, attempt)
        rejecting = CLOCK.distribution_audit(3, attempt)
        # A retry shares its slots with the veto before it: early means right after an early veto.
        committed = committing.closes - 2 if late else committing.opens + 1
        list_slot = CLOCK.distribution(3, attempt).closes - 1 if late else committed + 1
        vetoed = rejecting.closes - 1 if late else rejecting.opens
        if slot < committed:
            return held
        held = AnchoredRound(3, attempt, bytes(32), committed, KEY)
        last = attempt == rejections
        if slot >= list_slot and (listed or not last):
            held = replace(held, list_root=bytes(32), list_by=KEY, list_slot=list_slot)
        if slot >= vetoed and (not last or not last_stands):
            held = replace(held, rejected=True)
    return held


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("last_stands", [False, True])
@pytest.mark.parametrize("rejections", range(4))
def test_whether_a_round_counts_is_the_same_when_the_audit_opens_and_ever_after(
    rejections: int, last_stands: bool, listed: bool, late: bool
) -> None:
    for number in range(3, 14):
        opens = CLOCK.audit(number).opens
        answers = set()
        for slot in range(opens, opens + 1000, 7):
            held = anchored(slot, rejections, last_stands, listed, late=late)
            answers.add(held is not None and counts_in(held, number, CLOCK))
        stands = last_stands and listed
        assert answers == {stands and number >= 3 + REPUTATION_LAG + rejections}


def test_the_document_calculates_as_the_code_does() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    examples = re.findall(r"^\| `([-A-Z]+)` \|.*\| (\d+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    assert len(examples) >= 8
    for letters, *numbers in examples:
        found = of(letters)
        assert [found.good, found.bad, found.score] == [int(number) for number in numbers], letters
    weights = re.findall(r"^\| (?:age|weight) \|(.*)\|$", text, re.MULTILINE)
    ages, values = ([int(cell) for cell in row.split("|")] for row in weights)
    assert ages == list(range(REPUTATION_ROUNDS))
    assert values == [weight_at(age) for age in ages]
    rates = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    assert len(rates) >= 3
    rules = AuditRules(audit_rate=10_000, reputation_floor=2_000)
    by_score = {of(letters).score: of(letters) for letters, *_ in examples}
    for score, rate, leading in rates:
        assert audit_rate(by_score[int(score)], rules) == int(rate)
        assert tickets(int(score)) == int(leading)


def test_the_document_prices_a_patient_cheater_correctly() -> None:
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    saved, reward, slash = Fraction(1), Fraction("1.2"), Fraction(10)
    found, floor = Fraction("0.9"), 2_000
    caught = found * floor / 10_000
    honest = reward - saved
    one_fraud = (1 - caught) * reward - caught * slash - honest
    # Frauds until the first that is caught: their number is geometric, and all but the last are paid.
    until_caught = (1 / caught - 1) * reward - slash - honest / caught
    assert one_fraud == saved - caught * (reward + slash)
    assert until_caught == saved / caught - (reward + slash) == one_fraud / caught
    assert f"a fraud loses {-float(one_fraud):.3f}," in text
    assert f"after {float(1 / caught):.1f} rounds, loses {-float(until_caught):.2f}." in text
    assert f"must be above {int(10_000 * saved / (found * (reward + slash)))}." in text
