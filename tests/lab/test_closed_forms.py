"""The closed forms have their published values, and the rules that nodes run obey them.

Every simulation has fixed seeds, so that three sigma are a promise and not a gamble. Gossip is in `test_gossip_net.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from hashlib import sha256
from random import Random

import pytest

from koii_p2p.data.challenge import challenged_leaf, leaf_count
from koii_p2p.data.erasure import Code, decode, encode
from koii_p2p.data.reasons import DataError
from koii_p2p.kademlia.parameters import HOUR, KademliaParameters
from koii_p2p.kademlia.wire import Message, MessageType, Peer
from koii_p2p.lab import closed_forms as forms
from koii_p2p.records.schema import BallotEntry, BallotReveal, Verdict
from koii_p2p.records.seals import opens, seal_of
from koii_p2p.rounds.assignment import COMMITTEE, SAMPLE, AuditAssignment
from koii_p2p.rounds.audit_rules import BASIS_POINTS, AuditRules, Profile, Weights
from koii_p2p.rounds.beacon import beacon
from koii_p2p.rounds.distribution import default_distribution, submitters_of
from koii_p2p.rounds.roster import Roster, RosterEntry
from koii_p2p.rounds.tally import Cast, Outcome, tally
from koii_p2p.tasks.audits import sample_indices, sample_items
from tests.kademlia.net import SimulatedNet, key_of, peer
from tests.sigma import within_three_sigma

TASK = sha256(b"task").digest()
STAKE = 400
KOII = AuditRules(profile=Profile.KOII, weights=Weights.EQUAL)
VALID, INVALID = Verdict.VALID, Verdict.INVALID


@cache
def name(index: int) -> bytes:
    return sha256(b"staker %d" % index).digest()


@cache
def outsider(index: int) -> bytes:
    """An author who is not in the roster, so that all of the roster are others to it."""
    return sha256(b"author %d" % index).digest()


@cache
def equals(count: int, weights: Weights = Weights.EQUAL) -> Roster:
    entries = (RosterEntry(name(index), STAKE, 0, bytes(32)) for index in range(count))
    return Roster(0, tuple(sorted(entries, key=lambda entry: entry.key)), weights)


def drawn(members: int, rules: AuditRules, round_number: int = 0) -> AuditAssignment:
    blockhash = sha256(b"block %d" % round_number).digest()
    return AuditAssignment(beacon(blockhash, TASK, round_number), equals(members), rules)


def counted(
    assignment: AuditAssignment, authors: Sequence[bytes], against: Collection[bytes]
) -> list[Outcome]:
    """Outcomes of submissions that those in `against` call bad, with a challenge by one of them, and others good."""
    says = {key: INVALID if key in against else VALID for key in assignment.roster.keys}
    first = {author: {key: says[key] for key in assignment.auditors_of(author)} for author in authors}
    full = {author: {key: says[key] for key in assignment.committee_of(author)} for author in authors}
    challengers = {author: sorted(against)[:1] for author in authors}
    outcomes = tally(authors, Cast(first, full, challengers), assignment).outcomes
    return [outcomes[author] for author in authors]


# --- (1) self-sampling, as Koii's client does it


def test_published_values_of_self_sampling() -> None:
    for nodes, seen, thrice in ((100, 0.99377, 0.87755), (1000, 0.99331, 0.87556)):
        assert round(float(forms.seen_by_somebody(nodes, SAMPLE, nodes - 1)), 5) == seen
        few = sum(forms.looks(nodes, SAMPLE, nodes - 1, count) for count in range(3))
        assert round(float(1 - few), 5) == thrice
    for share, seen in ((2, 0.918), (5, 0.632), (10, 0.393)):
        assert abs(float(forms.seen_by_somebody(10_000, SAMPLE, 10_000 // share)) - seen) < 0.001


def test_self_sampling_looks_as_often_as_its_form_says() -> None:
    lookers, looked = [name(index) for index in range(20)], []
    watched = [name(index) for index in range(20, 100)]
    for number in range(30):
        assignment = drawn(100, KOII, number)
        picks = [set(assignment.sample_of(one, assignment.roster.keys)) for one in lookers]
        looked += [sum(author in pick for pick in picks) for author in watched]
    assert within_three_sigma(
        sum(count > 0 for count in looked), len(looked), forms.seen_by_somebody(100, 5, 20)
    )
    assert within_three_sigma(looked.count(2), len(looked), forms.looks(100, 5, 20, 2))


# --- (2), (3), (4) auditors that are drawn


def test_drawn_auditors_catch_as_often_as_the_form_says_and_look_at_everything() -> None:
    assignment, authors = drawn(100, AuditRules(auditors=5)), [outsider(index) for index in range(2500)]
    awake = {name(index) for index in range(20)}
    assert {len(assignment.auditors_of(author)) for author in authors} == {5}
    caught = sum(not awake.isdisjoint(assignment.auditors_of(author)) for author in authors)
    assert within_three_sigma(caught, len(authors), forms.caught_by_auditors(100, 20, 5))


def test_published_values_of_captured_committees() -> None:
    for others, bad, seats, least, published in (
        (100, 33, 5, 5, 0.00315),
        (100, 33, 5, forms.majority(5), 0.1998),
        (100, 33, 11, forms.majority(11), 0.104),
        (100, 33, 31, 31, 8e-24),
        (1000, 333, 51, forms.majority(51), 0.0056),
        (1000, 333, 111, forms.majority(111), 5.5e-5),
        (1000, 333, 128, forms.majority(128), 9.0e-6),
        (1000, 333, 111, forms.two_thirds(111), 2.2e-14),
    ):
        found = float(forms.hypergeometric_tail(others, bad, seats, least))
        assert found == pytest.approx(published, rel=0.02)


def test_first_auditors_are_captured_as_often_as_the_form_says() -> None:
    assignment, bad = drawn(100, AuditRules(auditors=5)), {name(index) for index in range(33)}
    hits = [len(bad.intersection(assignment.auditors_of(outsider(index)))) for index in range(3000)]
    for least in (1, 3, 4):
        captured = sum(count >= least for count in hits)
        assert within_three_sigma(captured, 3000, forms.hypergeometric_tail(100, 33, 5, least))


def test_a_captured_five_slashes_nobody_and_a_captured_full_audit_does() -> None:
    """Where we depart from (3): the majority that counts is that of 116, and of them as the form says."""
    assignment, seats, bad = drawn(300, AuditRules()), 5 + COMMITTEE, {name(index) for index in range(140)}
    outcomes = counted(assignment, [outsider(index) for index in range(700)], bad)
    chance = forms.hypergeometric_tail(300, 140, seats, forms.majority(seats))
    assert within_three_sigma(outcomes.count(Outcome.REJECTED), len(outcomes), chance)
    assert chance < Fraction(1, 5) < forms.hypergeometric_tail(300, 140, 5, 3)


def test_of_a_hundred_with_a_third_bad_nobody_is_ever_slashed_wrongly() -> None:
    """A full audit of so few is by everybody: a minority never wins, though it is the majority of many fives."""
    assignment, bad = drawn(100, AuditRules()), {name(index) for index in range(33)}
    outcomes = counted(assignment, [outsider(index) for index in range(300)], bad)
    assert outcomes == [Outcome.APPROVED] * 300


def test_bad_work_passes_only_where_all_who_were_drawn_collude() -> None:
    assignment, bad = drawn(100, AuditRules()), {name(index) for index in range(45)}
    honest = set(assignment.roster.keys) - bad
    authors = [outsider(index) for index in range(1500)]
    says = {key: INVALID if key in honest else VALID for key in assignment.roster.keys}
    first = {author: {key: says[key] for key in assignment.auditors_of(author)} for author in authors}
    full = {author: {key: says[key] for key in assignment.committee_of(author)} for author in authors}
    outcomes = tally(authors, Cast(first, full), assignment).outcomes
    passed = sum(outcome is Outcome.APPROVED for outcome in outcomes.values())
    assert within_three_sigma(passed, len(authors), forms.hypergeometric(100, 45, 5, 5))


def test_the_check_values_of_ethereum_and_a_draw_from_many() -> None:
    third = Fraction(1, 3)
    assert f"{float(forms.binomial_tail(111, third, forms.two_thirds(111))):.1e}" == "7.7e-13"
    assert f"{float(forms.binomial_tail(128, third, forms.two_thirds(128))):.1e}" == "5.6e-15"
    assert forms.binomial_tail(111, third, forms.two_thirds(111)) < Fraction(1, 2**40)
    assignment, bad = drawn(3000, AuditRules(auditors=9)), {name(index) for index in range(1000)}
    captured = sum(
        len(bad.intersection(assignment.auditors_of(outsider(index)))) >= 6 for index in range(3000)
    )
    assert within_three_sigma(captured, 3000, forms.binomial_tail(9, third, 6))


# --- (5) spot checks


def test_published_sizes_of_spot_checks() -> None:
    sizes = {1: 459, 5: 90, 10: 44, 25: 17}
    for percent, size in sizes.items():
        assert forms.samples_for(percent / 100, 0.99) == size
    # One fewer, 16 of 25 %, is the published figure: it finds 98.998 %.
    assert round(float(1 - Fraction(3, 4) ** 16), 4) == 0.99


def test_a_sample_of_different_items_finds_what_the_form_says() -> None:
    work = [index % 10 != 0 for index in range(200)]
    found = sum(
        not sample_items(work, lambda item: item, size=12, seed=sha256(b"%d" % number).digest())
        for number in range(2000)
    )
    assert within_three_sigma(found, 2000, forms.spot_check_finds(200, 20, 12))
    assert len(set(sample_indices(200, 12, seed=b"seed"))) == 12


def test_challenges_of_a_shard_may_ask_twice_and_find_a_little_less() -> None:
    size = 40 * 1024
    gone, root, found = set(range(4)), sha256(b"root").digest(), 0
    assert leaf_count(size) == 40
    for number in range(2000):
        seed = beacon(sha256(b"%d" % number).digest(), TASK, number)
        asked = {challenged_leaf(seed, name(0), name(1), root, size, draw) for draw in range(10)}
        found += not gone.isdisjoint(asked)
    assert within_three_sigma(found, 2000, 1 - (1 - Fraction(4, 40)) ** 10)
    assert 1 - (1 - Fraction(4, 40)) ** 10 < forms.spot_check_finds(40, 4, 10)


# --- (6) auditors that copy


@pytest.mark.parametrize("sealed", [False, True])
def test_copied_votes_are_no_more_votes(sealed: bool) -> None:
    """Two of five look, and are right in three of five cases; three copy the first, or what most work is."""
    random, accuracy, prior = Random(6), Fraction(3, 5), Fraction(7, 10)
    assignment = drawn(100, AuditRules(auditors=5))
    passed, bad, right = 0, 0, 0
    for index in range(5000):
        author = outsider(index)
        truth, lie = (VALID, INVALID) if random.random() < prior else (INVALID, VALID)
        looker, other, *copiers = assignment.auditors_of(author)
        votes = {one: truth if random.random() < accuracy else lie for one in (looker, other)}
        copied = VALID if sealed else votes[looker]
        votes.update(dict.fromkeys(copiers, copied))
        right += copied is truth
        if truth is INVALID:
            bad += 1
            full = {author: dict.fromkeys(assignment.roster.keys, truth) | votes}
            outcome = tally([author], Cast({author: votes}, full), assignment).outcomes[author]
            passed += outcome is Outcome.APPROVED
    assert within_three_sigma(right, 5000, forms.copier_accuracy(accuracy, prior, sealed=sealed))
    # Sealed ones who say VALID of everything find nothing either: it is their own work that they cannot fake.
    assert within_three_sigma(passed, bad, forms.missed_by_copied_votes(2, accuracy))


def test_there_is_nothing_to_copy_from_a_seal() -> None:
    entries = (BallotEntry(sha256(b"submission").digest(), INVALID),)
    opening = BallotReveal(sha256(b"salt").digest(), entries)
    seal = seal_of(opening, TASK, 0, name(0))
    assert opens(opening, seal, TASK, 0, name(0))
    assert not opens(opening, seal, TASK, 0, name(1))
    others = [replace(opening, entries=(replace(entries[0], verdict=verdict),)) for verdict in Verdict]
    # Who guesses the votes cannot tell whether it guessed right without the salt.
    guesses = [replace(other, salt=bytes(32)) for other in others]
    assert not any(opens(guess, seal, TASK, 0, name(0)) for guess in guesses)


# --- (7) proof of sampling


def test_published_thresholds_of_proof_of_sampling() -> None:
    cost, reward = Fraction(1), Fraction(6, 5)
    for slash, colluding, published in (
        (10, Fraction(0), "0.0893"),
        (10, Fraction(33, 100), "0.1333"),
        (100, Fraction(0), "0.0099"),
        (100, Fraction(33, 100), "0.0147"),
    ):
        assert f"{float(forms.honesty_threshold(cost, reward, Fraction(slash), colluding)):.4f}" == published


def gain_of_cheating(rate: Fraction, bad: int, auditors: int, rounds: int) -> list[int]:
    """What a cheater with a fresh stake gets in each round, by the draw, the tally and the default list."""
    rules = AuditRules(
        profile=Profile.POSP,
        weights=Weights.EQUAL,
        auditors=auditors,
        quorum=1,
        audit_rate=int(rate * BASIS_POINTS),
    )
    friends, author, amounts = {name(index) for index in range(1, 1 + bad)}, name(0), []
    for number in range(rounds):
        assignment = drawn(61, rules, number)
        honest = set(assignment.roster.keys) - friends
        first = {key: INVALID if key in honest else VALID for key in assignment.auditors_of(author)}
        full = {key: INVALID if key in honest else VALID for key in assignment.committee_of(author)}
        outcomes = tally([author], Cast({author: first}, {author: full}), assignment).outcomes
        amounts.append(
            default_distribution(submitters_of(outcomes, assignment.roster, None), 120, 7000)[author]
        )
    return amounts


@pytest.mark.parametrize(("bad", "auditors"), [(0, 1), (20, 1), (20, 2)])
def test_cheating_pays_below_the_threshold_and_not_above(bad: int, auditors: int) -> None:
    """Each round by itself, as the paper has it. Here a slashed stake is also out of the game, which costs more."""
    cost, reward, slash, rounds = 100, 120, STAKE * 7 // 10, 900
    colluding = 1 - forms.caught_by_auditors(60, 60 - bad, auditors)
    threshold = forms.honesty_threshold(Fraction(cost), Fraction(reward), Fraction(slash), colluding)
    for factor, pays in ((Fraction(3, 4), True), (Fraction(5, 4), False)):
        rate = threshold * factor
        amounts = gain_of_cheating(rate, bad, auditors, rounds)
        assert set(amounts) == {reward, -slash}
        assert within_three_sigma(amounts.count(-slash), rounds, rate * (1 - colluding))
        assert (sum(amounts) > rounds * (reward - cost)) is pays


# --- (8) grinding


def test_published_values_of_grinding() -> None:
    assert round(float(forms.ground(Fraction(1, 100), 8)), 3) == 0.077
    assert round(float(forms.ground(Fraction(1, 100), 64)), 3) == 0.474


def test_more_keys_are_more_tries_and_more_submissions_are_not() -> None:
    friends, rules, won = {name(index) for index in range(20)}, AuditRules(auditors=2), 0
    for number in range(500):
        assignment = drawn(60, rules, number)
        tries = [friends.issuperset(assignment.auditors_of(outsider(index))) for index in range(8)]
        won += any(tries)
        # The draw is asked by author: there is nothing about a submission that could change it.
        assert friends.issuperset(assignment.auditors_of(outsider(0))) is tries[0]
    assert within_three_sigma(won, 500, forms.ground(forms.hypergeometric(60, 20, 2, 2), 8))


# --- (9) gossip: the numbers alone


def test_published_values_of_gossip() -> None:
    assert round(forms.least_hops(1000, 8), 2) == 3.55
    assert forms.duplicate_bounds(8) == (3.0, 7.0)
    assert round(forms.copies_sent(7.2262, 100) / 10, 1) == 62.4
    # 150 KB, D = 8, 50 Mbit/s, 100 ms: 1.04 s over 3.55 hops, nearly all of it the uplinks'.
    assert round(forms.dissemination_time(3.55, 8, 150e3, 50e6 / 8, 0.1), 2) == 1.04


# --- (10), (11), (12) lookups and storage


def test_published_values_of_disjoint_lookups_and_a_walk_of_them() -> None:
    found = [forms.lookup_succeeds(0.2, 4, paths) for paths in (1, 4, 8)]
    assert found == pytest.approx([0.41, 0.879, 0.985], abs=0.001)
    random = Random(10)
    walked = sum(
        any(all(random.random() >= 0.2 for _hop in range(4)) for _path in range(4)) for _ in range(4000)
    )
    assert within_three_sigma(walked, 4000, forms.lookup_succeeds(0.2, 4, 4))


def test_our_lookups_find_more_than_the_form_gives_them() -> None:
    """One liar does not end a path of ours: it asks several, and passes over those whose word was not good."""
    net = SimulatedNet(300, seed=10)
    liars = [peer(number) for number in range(0, 300, 5)]
    swarm = [Peer(b"none" + number.to_bytes(4, "big")) for number in range(20)]

    def lie(_asker: bytes, request: Message) -> Message:
        return Message(MessageType.FIND_NODE, request.key, closer=tuple(swarm))

    net.lies = dict.fromkeys(liars, lie)
    found = 0
    for number in range(40):
        nearest = net.nearest(peer(1), key_of(number))
        found += net.truly_nearest(key_of(number), without={peer(1)})[0] in nearest
    assert found / 40 >= forms.lookup_succeeds(0.2, 4, KademliaParameters().paths)


def test_records_survive_as_the_form_says_and_are_stored_again_in_time() -> None:
    kademlia, random = KademliaParameters(), Random(11)
    lost = sum(all(random.expovariate(1 / 4.0) < 12.0 for _copy in range(20)) for _ in range(3000))
    assert within_three_sigma(lost, 3000, forms.record_lost(12.0, 4.0, 20))
    assert round(forms.record_survives(12.0, 4.0, 20), 2) == 0.64
    per_hour = forms.record_lost(kademlia.repeat_held / HOUR, 4.0, kademlia.bucket_size)
    assert f"{per_hour:.0e}" == "8e-14"


def test_blocks_are_lost_as_often_as_the_form_says() -> None:
    random, code, block = Random(12), Code(4, 8), Random(1).randbytes(4000)
    shards, lost = encode(code, block), 0
    for _ in range(3000):
        left = {number: shard for number, shard in enumerate(shards) if random.random() >= 0.3}
        try:
            assert decode(code, left, len(block)) == block
        except DataError:
            lost += 1
    chance = forms.shards_lost(4, 8, Fraction(3, 10))
    assert within_three_sigma(lost, 3000, chance)
    assert f"{float(chance):.1e}" == "5.8e-02"
    assert f"{float(forms.shards_lost(4, 8, Fraction(1, 20))):.1e}" == "1.5e-05"


# --- what makes no sense


def test_arguments_that_make_no_sense_are_refused() -> None:
    half = Fraction(1, 2)
    for call in (
        lambda: forms.binomial(-1, half, 0),
        lambda: forms.binomial(1, Fraction(3, 2), 0),
        lambda: forms.hypergeometric(10, 11, 5, 1),
        lambda: forms.hypergeometric(10, 5, 11, 1),
        lambda: forms.looks(0, 5, 1, 0),
        lambda: forms.samples_for(0.0, 0.5),
        lambda: forms.samples_for(0.5, 1.0),
        lambda: forms.honesty_threshold(half, half, half, Fraction(1)),
        lambda: forms.ground(half, -1),
        lambda: forms.copies_sent(0.5, 10),
        lambda: forms.duplicate_bounds(1),
        lambda: forms.least_hops(10, 2),
        lambda: forms.dissemination_time(1, 8, 1, 0, 1),
        lambda: forms.lookup_succeeds(1.5, 1, 1),
        lambda: forms.record_survives(-1, 1, 1),
        lambda: forms.record_lost(1, 0, 1),
        lambda: forms.shards_lost(1, 1, Fraction(2)),
    ):
        with pytest.raises(ValueError):
            call()
