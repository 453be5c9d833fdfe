"""The heartbeat: budgets, promises, scores, meshes, fanout, gossip (v1.0 "Heartbeat", v1.1 "Heartbeat Maintenance")."""

from __future__ import annotations

from functools import partial

from koii_p2p.gossip import mesh, wire
from koii_p2p.gossip.delivery import fill_fanout, ignore
from koii_p2p.gossip.effects import Connect, Graylist
from koii_p2p.gossip.mesh import chosen
from koii_p2p.gossip.outbox import Outbox
from koii_p2p.gossip.peers import Peer
from koii_p2p.gossip.refusals import Refusal
from koii_p2p.gossip.state import State, Topic

BACK_OFF_SWEEP = 15
"""Heartbeats between two looks at all back-offs, as in go."""


def beat(state: State, out: Outbox, now: int) -> None:
    """Do what is due. Costs in proportion to peers, subscriptions, and the messages that are advertised."""
    state.count.heartbeats += 1
    state.px_connects = 0
    for peer in state.peers.values():
        peer.begin_heartbeat(state.count.heartbeats)
    for key, count in state.promises.broken(now).items():
        state.punish(key, Refusal.PROMISE_BROKEN, count)
    for entry in state.pending.expired(now):
        ignore(state, entry, Refusal.PENDING_EXPIRED, now)
    state.scores.refresh(now)
    _name_graylisted(state, out)
    _dial_direct(state, out, now)
    improving = _is_due(state.improved_at, state.parameters.opportunistic, now)
    if state.improved_at is None or improving:
        state.improved_at = now
    for topic in state.joined_topics():
        _keep_mesh(state, topic, improving, out, now)
    _keep_fanout(state, now)
    _advertise(state, out)
    state.cache.shift()
    for ids in (state.seen, state.rejected, state.ignored):
        ids.expire(now)
    if state.count.heartbeats % BACK_OFF_SWEEP == 0:
        state.back_offs.expire(now)


def _is_due(last: int | None, period: int, now: int) -> bool:
    return last is not None and now >= last + period


def _name_graylisted(state: State, out: Outbox) -> None:
    for key, peer in state.peers.items():
        score = state.scores.score_of(peer.standing)
        below = score < state.thresholds.graylist and not peer.direct
        if below and not peer.graylisted:
            out.effects.append(Graylist(key, score))
        peer.graylisted = below


def _dial_direct(state: State, out: Outbox, now: int) -> None:
    """Ask for the direct peers that are not connected (v1.1, "Explicit Peering Agreements")."""
    if state.dialled_at is not None and not _is_due(state.dialled_at, state.parameters.direct, now):
        return
    state.dialled_at = now
    for key in sorted(state.direct):
        if key not in state.peers:
            out.effects.append(Connect(key, b"", b""))


def _keep_mesh(state: State, topic: Topic, improving: bool, out: Outbox, now: int) -> None:
    degrees, random = state.parameters.degrees, state.random
    score = partial(state.scores.score_in, topic=topic.name)
    for key in [key for key in topic.mesh if not state.is_fit(key, topic)]:
        state.prune(topic, key, out, now)
    quotas = ((degrees.outbound, state.is_outbound), (degrees.vouched, state.is_vouched))
    lacking = any(_lacks(topic, quota, belongs) for quota, belongs in quotas)
    if len(topic.mesh) < degrees.low or lacking or improving:
        candidates = state.candidates(topic, now)
        for key in mesh.to_fill(topic.mesh, candidates, degrees, random):
            state.graft(topic, key, out, now)
    for key in mesh.to_cut(list(topic.mesh), degrees, random, score, state.is_outbound, state.is_vouched):
        state.prune(topic, key, out, now, exchange=True)
    for quota, belongs in quotas if lacking else ():
        candidates = state.candidates(topic, now)
        for key in mesh.to_reach(topic.mesh, candidates, quota, degrees, random, belongs):
            state.graft(topic, key, out, now)
    if improving:
        candidates = state.candidates(topic, now)
        count = state.parameters.opportunistic_peers
        threshold = state.thresholds.opportunistic
        for key in mesh.to_improve(topic.mesh, candidates, threshold, count, random, score):
            state.graft(topic, key, out, now)


def _lacks(topic: Topic, quota: int, belongs: mesh.Is) -> bool:
    """Whether a mesh has fewer of a kind than its quota, while there are some outside."""
    if sum(map(belongs, topic.mesh)) >= quota:
        return False
    return any(key not in topic.mesh and belongs(key) for key in topic.subscribers)


def _keep_fanout(state: State, now: int) -> None:
    """Forget topics we no longer publish to, and fill up the peers of the others."""
    for topic in [topic for topic in state.topics.values() if not topic.joined]:
        held = any(entry.topic == topic.name for entry in state.held)
        if now >= topic.published_at + state.parameters.fanout and not held:
            del state.topics[topic.name]
        elif not state.parameters.flood_publish:
            for key in [key for key in topic.fanout if not state.may_publish_to(state.peers[key])]:
                del topic.fanout[key]
            fill_fanout(state, topic)


def _advertise(state: State, out: Outbox) -> None:
    """Tell some peers outside the mesh which messages there are (v1.1, "Adaptive Gossip Dissemination").

    Also told are peers that came into the mesh just now, for what was sent before that went past them, and peers whose
    queue was full, of what it kept from them.
    """
    by_topic = state.cache.gossip_ids()
    told: dict[bytes, set[str]] = {}
    for name, ids in by_topic.items():
        topic = state.topics.get(name)
        if topic is None or not (topic.joined or topic.fanout):
            continue
        most = state.bounds.ihave_ids
        whole = wire.ihave_entry(name, ids) if len(ids) <= most else b""
        for key in (*_hearers(state, topic), *_newcomers(state, topic)):
            told.setdefault(key, set()).add(name)
            state.count.ihave_ids_sent += min(len(ids), most)
            # Each hears of others where there are too many for one, so that together they hear of all.
            out.control(key, whole or wire.ihave_entry(name, chosen(ids, most, state.random)))
    missing = [peer for peer in state.peers.values() if peer.missed]
    newest = {message_id for ids in by_topic.values() for message_id in ids} if missing else set()
    for peer in missing:
        _offer_missed(state, peer, told.get(peer.peer, set()), newest, out)
        peer.missed.clear()


def _hearers(state: State, topic: Topic) -> list[bytes]:
    peers = [
        key
        for key, peer in topic.subscribers.items()
        if peer.has_control
        and not peer.direct
        and key not in topic.mesh
        and key not in topic.fanout
        and state.scores.score_of(peer.standing) >= state.thresholds.gossip
    ]
    count = max(state.parameters.degrees.lazy, int(state.parameters.gossip_factor * len(peers)))
    return chosen(peers, count, state.random)


def _newcomers(state: State, topic: Topic) -> list[bytes]:
    return [key for key, since in topic.mesh.items() if since >= state.count.heartbeats - 1]


def _offer_missed(state: State, peer: Peer, told: set[str], newest: set[bytes], out: Outbox) -> None:
    """Tell a peer what a full queue kept from it, unless it is among the `newest` of a topic it was `told` of."""
    if not peer.has_control or state.scores.score(peer.peer) < state.thresholds.gossip:
        return
    by_topic: dict[str, list[bytes]] = {}
    for message_id in peer.missed:
        entry = state.cache.get(message_id)
        if entry is None or entry.topic not in peer.topics:
            continue
        if entry.topic not in told or message_id not in newest:
            by_topic.setdefault(entry.topic, []).append(message_id)
    for name, ids in by_topic.items():
        state.count.ihave_ids_sent += len(ids)
        out.control(peer.peer, wire.ihave_entry(name, ids))
