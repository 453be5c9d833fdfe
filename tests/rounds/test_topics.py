from __future__ import annotations

from koii_p2p.records.schema import Kind
from koii_p2p.rounds.topics import KINDS_OF_TOPIC, TOPIC_OF_KIND, TOPICS, topic_name


def test_every_kind_has_one_topic() -> None:
    assert set(TOPIC_OF_KIND) == set(Kind)
    assert set(KINDS_OF_TOPIC) == set(TOPICS)
    assert sorted(kind for kinds in KINDS_OF_TOPIC.values() for kind in kinds) == sorted(Kind)
    assert all(KINDS_OF_TOPIC[topic] for topic in TOPICS)


def test_the_names_that_other_implementations_subscribe_to() -> None:
    assert [topic_name("Task1", topic) for topic in TOPICS] == [
        "/koii-p2p/1/Task1/submissions",
        "/koii-p2p/1/Task1/audits",
        "/koii-p2p/1/Task1/presence",
    ]
