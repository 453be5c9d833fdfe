"""The score of each peer: P1 to P7 with decay (v1.1, "Peer Scoring"). Local, never said to anybody.

    score = cap(sum over topics of weight * (P1 + P2 + P3 + P3b + P4)) + P5 + P6 + P7, each term with its weight

Floats, as in the specification: no two nodes have to agree on them. Topics are summed in the order in which a peer
first earned something in them, so that the same events give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from koii_p2p.gossip.parameters import ScoreParameters, TopicScore


@dataclass(slots=True)
class _Topic:
    """Counters of one peer in one topic, and how they count."""

    weights: TopicScore
    in_mesh: bool = False
    grafted_at: int = 0
    mesh_time: int = 0
    active: bool = False
    """In the mesh for long enough for P3."""
    first: float = 0.0
    mesh: float = 0.0
    failure: float = 0.0
    invalid: float = 0.0


@dataclass(slots=True)
class Standing:
    """What is known of one peer."""

    group: bytes | None
    connected: bool = True
    forget_at: int = 0
    application: float = 0.0
    behaviour: float = 0.0
    topics: dict[str, _Topic] = field(default_factory=dict)
    value: float | None = None
    """The score, until something changes."""


@dataclass(frozen=True, slots=True)
class ScoreParts:
    """What a score is made of; each part with its weight, topics together and not yet capped."""

    time_in_mesh: float = 0.0
    first_deliveries: float = 0.0
    mesh_deliveries: float = 0.0
    mesh_failures: float = 0.0
    invalid_messages: float = 0.0
    application: float = 0.0
    colocation: float = 0.0
    behaviour: float = 0.0
    score: float = 0.0


class Scores:
    """Counters of every peer that is connected, and for a time of those that left with nothing to their credit."""

    def __init__(self, parameters: ScoreParameters, most_retained: int) -> None:
        self._parameters = parameters
        self._most_retained = most_retained
        self._peers: dict[bytes, Standing] = {}
        #: Who of an address group is connected.
        self._groups: dict[bytes, dict[bytes, None]] = {}
        #: Departed peers, in order of departure.
        self._departed: dict[bytes, None] = {}
        self._refreshed_at: int | None = None
        self.forgotten_early = 0

    def __len__(self) -> int:
        return len(self._peers)

    # --- peers come and go

    def joined(self, peer: bytes, group: bytes | None) -> Standing:
        """Begin to keep the score of a peer, or go on where it left. `group` None: it counts with nobody."""
        known = self._peers.get(peer)
        if known is None:
            known = self._peers[peer] = Standing(group)
        elif known.connected:
            self._leave_group(peer, known)
        self._departed.pop(peer, None)
        known.connected = True
        known.group = group
        known.value = None
        if group is not None:
            members = self._groups.setdefault(group, {})
            members[peer] = None
            self._touch(members)
        return known

    def left(self, peer: bytes, now: int) -> None:
        """A peer left. A score above 0 is forgotten, as in go: it is quickly earned again, and is not to be hoarded."""
        known = self._peers.get(peer)
        if known is None or not known.connected:
            return
        positive = self.score(peer) > 0
        self._leave_group(peer, known)
        if positive:
            del self._peers[peer]
            return
        for topic in known.topics.values():
            topic.first = 0.0
            _fail(topic)
            topic.in_mesh = False
        known.connected = False
        known.forget_at = now + self._parameters.retain
        known.value = None
        self._departed[peer] = None
        if len(self._departed) > self._most_retained:
            oldest = next(iter(self._departed))
            del self._departed[oldest], self._peers[oldest]
            self.forgotten_early += 1

    def _leave_group(self, peer: bytes, known: Standing) -> None:
        if known.group is not None and (members := self._groups.get(known.group)) is not None:
            members.pop(peer, None)
            self._touch(members)
            if not members:
                del self._groups[known.group]

    def _touch(self, members: dict[bytes, None]) -> None:
        for member in members:
            self._peers[member].value = None

    # --- what peers do

    def grafted(self, peer: bytes, topic: str, now: int) -> None:
        """A peer came into the mesh of a topic."""
        if counters := self._counters(peer, topic):
            counters.in_mesh = True
            counters.grafted_at = now
            counters.mesh_time = 0
            counters.active = False

    def pruned(self, peer: bytes, topic: str) -> None:
        """A peer left the mesh of a topic: what it delivered too little sticks to it (P3b)."""
        if counters := self._counters(peer, topic):
            _fail(counters)
            counters.in_mesh = False
            counters.active = False

    def delivered_first(self, peer: bytes, topic: str) -> None:
        """A peer brought a message that was accepted (P2, and P3 if it is in the mesh)."""
        if counters := self._counters(peer, topic):
            counters.first = min(counters.first + 1, counters.weights.first_cap)
            if counters.in_mesh:
                counters.mesh = min(counters.mesh + 1, counters.weights.mesh_cap)

    def delivered_also(self, peer: bytes, topic: str, late: int) -> None:
        """A peer brought a copy `late` milliseconds after the message was accepted; 0 or less: before that (P3)."""
        weights = self._parameters.of_topic(topic)
        if weights is None or not weights.mesh_weight or late > weights.mesh_window:
            return
        counters = self._counters(peer, topic)
        if counters and counters.in_mesh:
            counters.mesh = min(counters.mesh + 1, weights.mesh_cap)

    def sent_invalid(self, peer: bytes, topic: str) -> None:
        """A peer sent a message that was rejected (P4)."""
        if counters := self._counters(peer, topic):
            counters.invalid += 1

    def misbehaved(self, peer: bytes, count: float) -> None:
        """A peer broke a rule of the protocol (P7)."""
        if known := self._peers.get(peer):
            known.behaviour += count
            known.value = None

    def set_application(self, peer: bytes, value: float) -> None:
        """Take what the application thinks of a peer (P5), cut to its cap. Of peers that are connected only."""
        known = self._peers.get(peer)
        if known is not None and known.connected:
            cap = self._parameters.application_cap
            known.application = max(-cap, min(cap, value))
            known.value = None

    def _counters(self, peer: bytes, topic: str) -> _Topic | None:
        known = self._peers.get(peer)
        if known is None:
            return None
        known.value = None
        counters = known.topics.get(topic)
        if counters is None and (weights := self._parameters.of_topic(topic)):
            counters = known.topics[topic] = _Topic(weights)
        return counters

    # --- time passes

    def refresh(self, now: int) -> None:
        """Let counters fade, once for each decay interval since the last call; a first call only sets the time."""
        if self._refreshed_at is None:
            self._refreshed_at = now
        intervals = (now - self._refreshed_at) // self._parameters.decay_interval
        if intervals > 0:
            self._refreshed_at += intervals * self._parameters.decay_interval
            self._decay(intervals, now)
        for peer in list(self._departed):
            if self._peers[peer].forget_at > now:
                break
            del self._departed[peer], self._peers[peer]

    def _decay(self, intervals: int, now: int) -> None:
        zero, behaviour = self._parameters.decay_to_zero, self._parameters.behaviour_decay**intervals
        for known in self._peers.values():
            if not known.connected:
                continue  # or who misbehaved would wait outside until it is forgotten
            if not known.topics and not known.behaviour:
                continue  # most of a crowd that does nothing, whose score stays as it is
            known.value = None
            known.behaviour = _faded(known.behaviour, behaviour, zero)
            for name, topic in list(known.topics.items()):
                parameters = topic.weights
                topic.first = _faded(topic.first, parameters.first_decay**intervals, zero)
                topic.mesh = _faded(topic.mesh, parameters.mesh_decay**intervals, zero)
                topic.failure = _faded(topic.failure, parameters.failure_decay**intervals, zero)
                topic.invalid = _faded(topic.invalid, parameters.invalid_decay**intervals, zero)
                if topic.in_mesh:
                    topic.mesh_time = now - topic.grafted_at
                    topic.active = topic.active or topic.mesh_time > parameters.mesh_activation
                elif not (topic.first or topic.mesh or topic.failure or topic.invalid):
                    del known.topics[name]

    # --- the score

    def score(self, peer: bytes) -> float:
        """Return the score of a peer; 0 for one that is not known."""
        known = self._peers.get(peer)
        return 0.0 if known is None else self.score_of(known)

    def score_of(self, known: Standing) -> float:
        """Return the score of a peer whose standing is at hand."""
        value = known.value
        if value is None:
            terms = self._terms(known)
            topics = sum(terms[:5])
            if self._parameters.topic_cap:
                topics = min(topics, self._parameters.topic_cap)
            value = known.value = topics + sum(terms[5:])
        return value

    def parts(self, peer: bytes) -> ScoreParts:
        """Return what the score of a peer is made of."""
        known = self._peers.get(peer)
        return ScoreParts() if known is None else ScoreParts(*self._terms(known), self.score_of(known))

    def score_in(self, peer: bytes, topic: str) -> float:
        """Return the score of a peer as if this topic were the only one, for what concerns the mesh of that topic.

        Nothing earned elsewhere counts. With one sum over all topics a peer can behave well in some and pay with that
        for starving another (arXiv:2212.05197).
        """
        known = self._peers.get(peer)
        if known is None:
            return 0.0
        counters = known.topics.get(topic)
        earned = 0.0 if counters is None else sum(_earned(counters))
        if self._parameters.topic_cap:
            earned = min(earned, self._parameters.topic_cap)
        return earned + sum(self._beside_topics(known))

    def _terms(self, known: Standing) -> tuple[float, float, float, float, float, float, float, float]:
        """The weighted terms, in the order of `ScoreParts`."""
        time = first = mesh = failure = invalid = 0.0
        for topic in known.topics.values():
            terms = _earned(topic)
            time += terms[0]
            first += terms[1]
            mesh += terms[2]
            failure += terms[3]
            invalid += terms[4]
        return time, first, mesh, failure, invalid, *self._beside_topics(known)

    def _beside_topics(self, known: Standing) -> tuple[float, float, float]:
        """P5, P6 and P7."""
        parameters = self._parameters
        application = parameters.application_weight * known.application
        colocation = parameters.colocation_weight * self._surplus(known) ** 2
        excess = max(0.0, known.behaviour - parameters.behaviour_threshold)
        return application, colocation, parameters.behaviour_weight * excess**2

    def _surplus(self, known: Standing) -> int:
        if known.group is None or not known.connected:
            return 0
        return max(0, len(self._groups[known.group]) - self._parameters.colocation_threshold)


def _earned(topic: _Topic) -> tuple[float, float, float, float, float]:
    """P1, P2, P3, P3b and P4 in a topic, weighted."""
    weights, mesh = topic.weights, 0.0
    time = 0.0
    if topic.in_mesh:
        quanta = min(float(topic.mesh_time // weights.time_quantum), weights.time_cap)
        time = weights.weight * weights.time_weight * quanta
        if topic.active and topic.mesh < weights.mesh_threshold:
            mesh = weights.weight * weights.mesh_weight * (weights.mesh_threshold - topic.mesh) ** 2
    return (
        time,
        weights.weight * weights.first_weight * topic.first,
        mesh,
        weights.weight * weights.failure_weight * topic.failure,
        weights.weight * weights.invalid_weight * topic.invalid**2,
    )


def _fail(topic: _Topic) -> None:
    if topic.weights.failure_weight and topic.active and topic.mesh < topic.weights.mesh_threshold:
        topic.failure += (topic.weights.mesh_threshold - topic.mesh) ** 2


def _faded(value: float, factor: float, zero: float) -> float:
    value *= factor
    return value if value >= zero else 0.0
