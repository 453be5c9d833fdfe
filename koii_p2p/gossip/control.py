"""What a peer's control messages make us do (v1.0 "Control Messages"; v1.1 "Spam Protection Measures"; v1.2)."""

from __future__ import annotations

from koii_p2p.gossip import wire
from koii_p2p.gossip.effects import Connect
from koii_p2p.gossip.message_cache import Entry
from koii_p2p.gossip.outbox import Outbox
from koii_p2p.gossip.peers import Peer
from koii_p2p.gossip.refusals import Refusal
from koii_p2p.gossip.state import State, Topic
from koii_p2p.gossip.wire import Control, Prune


def take_control(state: State, peer: Peer, control: Control, out: Outbox, now: int) -> None:
    """Deal with the control entries of one RPC, in the order of go: IHAVE, IWANT, GRAFT, PRUNE, IDONTWANT."""
    if not peer.has_control:
        state.refuse(Refusal.CONTROL_FROM_FLOODSUB)
        return
    if control.ihave:
        _ihave(state, peer, control.ihave, out, now)
    if control.iwant:
        _iwant(state, peer, control.iwant, out)
    for topic in control.graft:
        _graft(state, peer, topic, out, now)
    for prune in control.prune:
        _prune(state, peer, prune, out, now)
    for ids in control.idontwant:
        _idontwant(state, peer, ids)


def _ihave(
    state: State, peer: Peer, advertised: list[tuple[str, list[bytes]]], out: Outbox, now: int
) -> None:
    """Ask for what we lack, within the budget of the heartbeat, and remember one id as promised."""
    if state.scores.score(peer.peer) < state.thresholds.gossip:
        state.refuse(Refusal.IHAVE_BELOW_THRESHOLD)
        return
    peer.ihave_messages += 1
    if peer.ihave_messages > state.bounds.ihave_messages:
        state.refuse(Refusal.IHAVE_MESSAGES)
        return
    lacking: dict[bytes, None] = {}
    for name, ids in advertised:
        topic = state.topics.get(name)
        if topic is None or not topic.joined:
            state.refuse(Refusal.IHAVE_UNJOINED)
            continue
        for message_id in ids:
            if not _is_id(state, message_id):
                state.refuse(Refusal.ID_LENGTH)
            elif not _is_known(state, message_id):
                lacking[message_id] = None
    room = state.bounds.ihave_ids - peer.asked_ids
    asked = list(lacking)
    if len(asked) > room:
        state.refuse(Refusal.IHAVE_IDS, len(asked) - room)
    # In random order, or a liar could bury one true id under many false ones.
    state.random.shuffle(asked)
    asked = asked[:room]
    if asked:
        peer.asked_ids += len(asked)
        state.count.iwant_ids_sent += len(asked)
        state.promises.add(peer.peer, asked, now, state.random)
        out.control(peer.peer, wire.iwant_entry(asked))


def _is_id(state: State, message_id: bytes) -> bool:
    length = state.parameters.id_length
    return len(message_id) == length if length else 0 < len(message_id) <= state.bounds.id_bytes


def _is_known(state: State, message_id: bytes) -> bool:
    return (
        message_id in state.seen.entries
        or message_id in state.ignored.entries
        or message_id in state.rejected.entries
        or state.pending.get(message_id) is not None
    )


def _iwant(state: State, peer: Peer, wanted: list[list[bytes]], out: Outbox) -> None:
    """Send what is asked for and cached: each message a few times, and so many ids and bytes in a heartbeat."""
    if state.scores.score(peer.peer) < state.thresholds.gossip:
        state.refuse(Refusal.IWANT_BELOW_THRESHOLD)
        return
    answers: dict[bytes, Entry] = {}
    for message_id in (message_id for ids in wanted for message_id in ids):
        peer.iwant_ids += 1
        if peer.iwant_ids > state.bounds.iwant_ids:
            state.refuse(Refusal.IWANT_IDS)
            continue
        if message_id in answers or message_id in peer.unwanted:
            continue
        entry = state.cache.get(message_id)
        if entry is None:
            state.refuse(Refusal.IWANT_UNKNOWN)
            continue
        times = entry.asked.get(peer.peer, 0) + 1
        if times > state.bounds.iwant_repeats:
            state.refuse(Refusal.IWANT_REPEATS)
            continue
        if peer.iwant_bytes + entry.size > state.bounds.iwant_bytes:
            state.refuse(Refusal.IWANT_BYTES)
            continue
        entry.asked[peer.peer] = times
        peer.iwant_bytes += entry.size
        answers[message_id] = entry
    if answers:
        state.count.iwant_answers += len(answers)
        out.messages(peer.peer, list(answers.values()))


def _graft(state: State, peer: Peer, name: str, out: Outbox, now: int) -> None:
    """Take a peer into the mesh, or say no by PRUNE (v1.1, "PRUNE Backoff" and "Outbound Mesh Quotas")."""
    topic = state.topics.get(name)
    if topic is None or not topic.joined:
        state.refuse(Refusal.GRAFT_UNJOINED)
        return
    if peer.peer in topic.mesh:
        return
    exchange = False
    # Whoever grafts us has us in its mesh, so it is subscribed, even if its announcement is still to come.
    if state.subscribed(peer, name, out):
        if peer.direct:
            state.refuse(Refusal.GRAFT_DIRECT)
        elif not _graft_is_late_enough(state, peer, topic, now):
            state.punish(peer.peer, Refusal.GRAFT_BACK_OFF)
        elif not state.is_fit(peer.peer, topic):
            state.refuse(Refusal.GRAFT_SCORE)
        elif len(topic.mesh) >= state.parameters.degrees.high and not _may_overfill(state, peer):
            state.refuse(Refusal.GRAFT_FULL)
            exchange = True  # only here it helps: somebody honest looks for room
        else:
            state.count.grafts_taken += 1
            state.join_mesh(topic, peer.peer, now)
            return
    state.prune(topic, peer.peer, out, now, exchange=exchange)


def _may_overfill(state: State, peer: Peer) -> bool:
    """Whoever fills a mesh by numbers must not keep out those we chose ourselves, or the application vouches for."""
    return peer.outbound or state.is_vouched(peer.peer)


def _graft_is_late_enough(state: State, peer: Peer, topic: Topic, now: int) -> bool:
    began = state.back_offs.began(topic.name, peer.peer, now)
    if began is None:
        return True
    if now < began + state.parameters.graft_flood:
        state.punish(peer.peer, Refusal.GRAFT_FLOOD)
    return False


def _prune(state: State, peer: Peer, prune: Prune, out: Outbox, now: int) -> None:
    """Take a peer out of the mesh for as long as it says, within our bound, and hear whom it recommends."""
    topic = state.topics.get(prune.topic)
    if topic is None or not topic.joined:
        return
    if state.leave_mesh(topic, peer.peer):
        state.count.prunes_taken += 1
    duration = state.parameters.prune_back_off
    if prune.back_off:
        duration = prune.back_off * 1000
        if duration > state.bounds.back_off:
            state.refuse(Refusal.BACK_OFF_CAPPED)
            duration = state.bounds.back_off
    state.back_offs.add(topic.name, peer.peer, duration, now)
    if prune.peers:
        _exchange(state, peer, prune, out)


def _exchange(state: State, peer: Peer, prune: Prune, out: Outbox) -> None:
    if state.scores.score(peer.peer) < state.thresholds.accept_px:
        state.refuse(Refusal.PX_SCORE)
        return
    for other, record in prune.peers:
        if not 0 < len(other) <= state.bounds.peer_id_bytes or len(record) > state.bounds.record_bytes:
            state.punish(peer.peer, Refusal.PX_RECORD)
        elif other != state.own and other not in state.peers:
            if state.px_connects >= state.bounds.px_connects:
                state.refuse(Refusal.PX_PEERS)
                continue
            state.px_connects += 1
            out.effects.append(Connect(other, record, peer.peer))


def _idontwant(state: State, peer: Peer, ids: list[bytes]) -> None:
    """Remember what a peer does not want, for a few heartbeats (v1.2)."""
    until = state.count.heartbeats + state.parameters.idontwant
    for message_id in ids:
        peer.idontwant_ids += 1
        if peer.idontwant_ids > state.bounds.idontwant_ids:
            state.refuse(Refusal.IDONTWANT_IDS)
        elif not _is_id(state, message_id):
            state.refuse(Refusal.ID_LENGTH)
        else:
            peer.unwanted.pop(message_id, None)
            peer.unwanted[message_id] = until
