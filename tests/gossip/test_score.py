"""P1 to P7 by the formulas of the specification, and how they fade."""

from __future__ import annotations

from dataclasses import replace

import pytest

from koii_p2p.gossip.parameters import ScoreParameters, Thresholds, TopicScore, decay
from koii_p2p.gossip.score import Scores

NONE = TopicScore(time_weight=0.0, first_weight=0.0, mesh_weight=0.0, failure_weight=0.0, invalid_weight=0.0)
PLAIN = ScoreParameters(
    other_topics=None,
    topic_cap=0.0,
    application_weight=0.0,
    colocation_weight=0.0,
    behaviour_weight=0.0,
    behaviour_threshold=0.0,
)


def scores(topic: TopicScore = NONE, peers: int = 1, **others: float) -> Scores:
    parameters = replace(PLAIN, topics={"t": topic}, **others)  # type: ignore[arg-type]
    made = Scores(parameters, 100)
    for number in range(peers):
        made.joined(bytes([number]), None)
    made.refresh(0)
    return made


P = b"\0"
Q = b"\1"


def test_p1_counts_whole_quanta_in_the_mesh_up_to_its_cap() -> None:
    made = scores(replace(NONE, weight=2.0, time_weight=0.5, time_quantum=2_000, time_cap=3.0))
    made.grafted(P, "t", 0)
    assert made.score(P) == 0.0
    made.refresh(3_999)
    assert made.score(P) == 2.0 * 0.5 * 1
    made.refresh(60_000)
    assert made.score(P) == 2.0 * 0.5 * 3
    made.pruned(P, "t")
    assert made.score(P) == 0.0
    made.grafted(P, "t", 60_000)
    assert made.score(P) == 0.0


def test_p2_counts_first_deliveries_up_to_its_cap_and_fades() -> None:
    made = scores(replace(NONE, first_weight=3.0, first_cap=5.0, first_decay=0.5))
    for _ in range(2):
        made.delivered_first(P, "t")
    assert made.score(P) == 6.0
    for _ in range(9):
        made.delivered_first(P, "t")
    assert made.score(P) == 15.0
    made.refresh(1_000)
    assert made.score(P) == 7.5
    made.refresh(3_000)
    assert made.score(P) == 15.0 / 8
    made.refresh(20_000)
    assert made.score(P) == 0.0


P3 = replace(
    NONE,
    mesh_weight=-1.0,
    mesh_threshold=20.0,
    mesh_cap=100.0,
    mesh_activation=10_000,
    mesh_window=10,
    mesh_decay=0.5,
)


def test_p3_begins_after_its_activation_and_is_the_square_of_the_deficit() -> None:
    made = scores(P3)
    made.grafted(P, "t", 0)
    made.refresh(10_000)
    assert made.score(P) == 0.0
    made.refresh(11_000)
    assert made.score(P) == -400.0
    for _ in range(5):
        made.delivered_first(P, "t")
    assert made.score(P) == -225.0
    for _ in range(15):
        made.delivered_also(P, "t", 10)
    assert made.score(P) == 0.0
    made.refresh(12_000)
    assert made.score(P) == -100.0


def test_p3_counts_no_copies_after_its_window_and_none_from_outside_the_mesh() -> None:
    made = scores(P3, peers=2)
    for peer in (P, Q):
        made.grafted(peer, "t", 0)
    made.refresh(11_000)
    made.delivered_also(P, "t", 11)
    assert made.score(P) == -400.0
    made.delivered_also(P, "t", 10)
    assert made.score(P) == -361.0
    made.pruned(Q, "t")
    made.delivered_also(Q, "t", 0)
    made.grafted(Q, "t", 11_000)
    made.refresh(11_000)
    assert made.parts(Q).mesh_deliveries == 0.0  # not active yet
    made.refresh(22_000)
    assert made.score(Q) == -400.0


def test_p3_has_a_cap_so_that_a_burst_is_no_reserve_for_ever() -> None:
    made = scores(replace(P3, mesh_cap=40.0))
    made.grafted(P, "t", 0)
    for _ in range(1_000):
        made.delivered_first(P, "t")
    made.refresh(1_000)
    made.refresh(11_000)
    assert made.score(P) == -((20.0 - 40.0 * 0.5**11) ** 2)


def test_p3b_sticks_to_a_peer_that_was_pruned_with_a_deficit() -> None:
    made = scores(replace(P3, failure_weight=-2.0, failure_decay=0.5))
    made.grafted(P, "t", 0)
    made.refresh(11_000)
    made.pruned(P, "t")
    assert made.score(P) == -2.0 * 400.0
    made.refresh(12_000)
    assert made.score(P) == -2.0 * 200.0
    made.grafted(P, "t", 12_000)
    made.pruned(P, "t")  # before P3 became active
    assert made.score(P) == -2.0 * 200.0


def test_p4_is_the_square_of_rejected_messages_and_fades() -> None:
    made = scores(replace(NONE, invalid_weight=-10.0, invalid_decay=0.5))
    for count, score in ((1, -10.0), (2, -40.0), (3, -90.0)):
        made.sent_invalid(P, "t")
        assert made.score(P) == score, count
    made.refresh(1_000)
    assert made.score(P) == -22.5


def test_p5_is_what_the_application_says_within_its_cap() -> None:
    made = scores(application_weight=2.0, application_cap=50.0)
    made.set_application(P, 10.0)
    assert made.score(P) == 20.0
    made.set_application(P, 1e9)
    assert made.score(P) == 100.0
    made.set_application(P, -1e9)
    assert made.score(P) == -100.0
    made.set_application(b"unknown", 5.0)
    assert made.score(b"unknown") == 0.0


def test_p6_is_the_square_of_the_surplus_in_an_address_group() -> None:
    made = scores(peers=0, colocation_weight=-5.0, colocation_threshold=2)
    for number in range(2):
        made.joined(bytes([number]), b"10.0.0.1")
    assert made.score(P) == 0.0
    made.joined(b"\2", b"10.0.0.1")
    made.joined(b"\3", b"10.0.0.1")
    assert [made.score(bytes([number])) for number in range(4)] == [-20.0] * 4
    made.joined(b"\4", b"10.0.0.2")
    made.joined(b"\5", None)
    assert (made.score(b"\4"), made.score(b"\5")) == (0.0, 0.0)
    made.left(b"\3", 0)
    assert made.score(P) == -5.0
    made.joined(b"\2", b"10.0.0.2")  # it moved
    assert made.score(P) == 0.0


def test_p7_is_the_square_of_misbehaviour_beyond_its_threshold_and_fades() -> None:
    made = scores(behaviour_weight=-3.0, behaviour_threshold=2.0, behaviour_decay=0.5)
    made.misbehaved(P, 2)
    assert made.score(P) == 0.0
    made.misbehaved(P, 2)
    assert made.score(P) == -12.0
    made.refresh(1_000)
    assert made.score(P) == 0.0


def test_topics_are_weighted_summed_and_capped() -> None:
    one = replace(NONE, weight=1.0, first_weight=10.0)
    two = replace(NONE, weight=0.5, first_weight=10.0, invalid_weight=-10.0)
    parameters = replace(PLAIN, topics={"a": one, "b": two}, topic_cap=12.0, application_weight=1.0)
    made = Scores(parameters, 10)
    made.joined(P, None)
    made.delivered_first(P, "a")
    assert made.score(P) == 10.0
    made.delivered_first(P, "b")
    assert made.score(P) == 12.0
    made.set_application(P, 3.0)
    assert made.score(P) == 15.0
    made.delivered_first(P, "elsewhere")
    assert made.score(P) == 15.0
    for _ in range(4):
        made.sent_invalid(P, "b")
    assert made.score(P) == 10.0 + 0.5 * (10.0 - 160.0) + 3.0


def test_parts_add_up_to_the_score() -> None:
    made = Scores(ScoreParameters(), 10)
    for number in range(12):
        made.joined(bytes([number]), b"group")
    made.grafted(P, "t", 0)
    made.delivered_first(P, "t")
    made.sent_invalid(P, "t")
    made.misbehaved(P, 5)
    made.set_application(P, 7.0)
    parts = made.parts(P)
    assert parts.first_deliveries == 1.0
    assert parts.invalid_messages == -10.0
    assert parts.application == 7.0
    assert parts.colocation == -20.0 * 16
    assert parts.behaviour == -20.0 * 4
    assert parts.score == made.score(P) == -402.0
    assert made.parts(b"unknown").score == 0.0


def test_a_bad_score_outlasts_the_connection_and_does_not_fade_outside() -> None:
    made = scores(replace(NONE, invalid_weight=-10.0), retain=60_000)
    made.sent_invalid(P, "t")
    made.left(P, 0)
    made.refresh(59_000)
    made.joined(P, None)
    assert made.score(P) == -10.0


def test_a_bad_score_is_forgotten_in_the_end() -> None:
    made = scores(replace(NONE, invalid_weight=-10.0), retain=60_000)
    made.sent_invalid(P, "t")
    made.left(P, 0)
    made.refresh(60_000)
    assert len(made) == 0
    made.joined(P, None)
    assert made.score(P) == 0.0


def test_a_good_score_is_forgotten_at_once() -> None:
    made = scores(replace(NONE, first_weight=1.0))
    made.delivered_first(P, "t")
    made.left(P, 0)
    assert len(made) == 0


def test_who_leaves_the_mesh_by_disconnecting_takes_its_deficit_along() -> None:
    made = scores(replace(P3, failure_weight=-1.0))
    made.grafted(P, "t", 0)
    made.refresh(11_000)
    made.left(P, 11_000)
    made.joined(P, None)
    assert made.score(P) == -400.0


def test_a_topic_in_which_nothing_is_left_is_forgotten() -> None:
    made = scores(replace(NONE, first_weight=1.0, first_decay=0.5))
    made.delivered_first(P, "t")
    made.grafted(P, "t", 0)
    made.refresh(60_000)
    assert list(made.joined(P, None).topics) == ["t"]
    made.pruned(P, "t")
    made.refresh(61_000)
    assert made.joined(P, None).topics == {}


def test_remembered_scores_are_bounded() -> None:
    made = Scores(replace(PLAIN, topics={"t": NONE}), 2)
    for number in range(5):
        made.joined(bytes([number]), None)
        made.left(bytes([number]), number)
    assert len(made) == 2
    assert made.forgotten_early == 3


def test_decay_brings_one_to_nothing_in_its_lifetime() -> None:
    factor = decay(60_000, 1_000)
    assert factor**60 == pytest.approx(0.01)
    assert decay(60_000, 1_000, 0.1) ** 60 == pytest.approx(0.1)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Thresholds(gossip=0.0),
        lambda: Thresholds(gossip=-10.0, publish=-5.0),
        lambda: Thresholds(publish=-100.0, graylist=-100.0),
        lambda: Thresholds(accept_px=-1.0),
        lambda: Thresholds(opportunistic=-1.0),
        lambda: TopicScore(first_weight=-1.0),
        lambda: TopicScore(invalid_weight=1.0),
        lambda: TopicScore(mesh_weight=1.0),
        lambda: TopicScore(first_decay=1.0),
        lambda: TopicScore(mesh_cap=1.0, mesh_threshold=2.0),
        lambda: ScoreParameters(colocation_weight=1.0),
        lambda: ScoreParameters(application_weight=-1.0),
        lambda: ScoreParameters(colocation_threshold=0),
    ],
)
def test_parameters_that_make_no_sense_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError):
        wrong()
