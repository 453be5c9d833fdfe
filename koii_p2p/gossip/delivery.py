"""What happens to a message: it comes, is judged, and is sent on (v1.0 "Message Processing"; v1.1; v1.2)."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from koii_p2p.gossip import wire
from koii_p2p.gossip.effects import Deliver, Effect, Send, Verdict
from koii_p2p.gossip.mesh import chosen
from koii_p2p.gossip.message_cache import Entry
from koii_p2p.gossip.outbox import Outbox
from koii_p2p.gossip.parameters import SignaturePolicy
from koii_p2p.gossip.peers import Peer
from koii_p2p.gossip.refusals import Refusal
from koii_p2p.gossip.state import State, Topic
from koii_p2p.gossip.wire import Message, WireError

NOTE_BYTES = 8
"""Of the hash of a rejected message's bytes: enough to tell it from another that claims its id."""


def is_copy(state: State, peer: bytes, part: bytes, now: int) -> bool:
    """Say whether a field of an RPC, or a whole RPC, is just a cached message, and count it if so."""
    entry = state.cache.by_part.get(part)
    if entry is None:
        return False
    state.count.received += 1
    _count_copy(state, entry, peer, now)
    return True


def take_message(state: State, peer: Peer, raw: bytes, part: bytes, out: Outbox, now: int) -> None:
    """Take one encoded message, `part` as a field of an RPC: drop it, or hand it over for a verdict."""
    state.count.received += 1
    try:
        message = wire.decode_message(raw)
    except WireError:
        state.punish(peer.peer, Refusal.MALFORMED_MESSAGE)
        return
    topic = state.topics.get(message.topic)
    if topic is None or not topic.joined:
        state.refuse(Refusal.UNJOINED_TOPIC)
    elif not _follows(state.parameters.policy, message):
        _invalid(state, topic, peer.peer, Refusal.SIGNATURE_POLICY)
    elif len(message.data) > state.bounds.message_bytes:
        _invalid(state, topic, peer.peer, Refusal.MESSAGE_TOO_LARGE)
    else:
        _take_new(state, peer, topic, message, part, out, now)


def _take_new(
    state: State, peer: Peer, topic: Topic, message: Message, part: bytes, out: Outbox, now: int
) -> None:
    message_id = state.message_id(message)
    state.promises.keep(message_id)
    entry = state.cache.get(message_id)
    if entry is not None:
        _count_copy(state, entry, peer.peer, now)
        return
    if message_id in state.seen.entries:
        state.count.duplicates += 1
        topic.duplicates += 1
        return
    # Whoever chooses ids can give one to anything, so that an id stands for its message only with the same bytes.
    unsigned = state.parameters.policy is SignaturePolicy.NO_SIGN
    if (entry := state.pending.get(message_id)) is not None:
        if not unsigned and entry.part != part:
            state.refuse(Refusal.OTHER_BYTES)
            return
        state.count.duplicates += 1
        topic.duplicates += 1
        entry.peers[peer.peer] = None
        return
    if (note := state.rejected.note(message_id)) is not None and (unsigned or note == _note(part)):
        _invalid(state, topic, peer.peer, Refusal.REJECTED_BEFORE)
        return
    if (note := state.ignored.note(message_id)) is not None and (unsigned or note == _note(part)):
        state.refuse(Refusal.IGNORED_BEFORE)
        return
    if not state.pending.has_room(len(part)):
        state.refuse(Refusal.PENDING_FULL)
        return
    if not state.pending.has_room_for(peer.peer):
        state.refuse(Refusal.PENDING_PER_PEER)
        return
    # Unknown fields would let one message travel as many. Those of a signed one belong to what is signed.
    canonical = wire.message_part(wire.encode_message(message)) if unsigned else part
    entry = Entry(message_id, message, canonical, peer.peer, now)
    state.pending.put(entry)
    state.count.delivered += 1
    out.effects.append(Deliver(message, peer.peer, message_id))
    if unsigned:
        _say_idontwant(state, topic, entry, out)


def _follows(policy: SignaturePolicy, message: Message) -> bool:
    if policy is SignaturePolicy.NO_SIGN:
        fields = (message.author, message.seqno, message.signature, message.key)
        return fields == (None, None, None, None)
    return None not in (message.author, message.seqno, message.signature)


def _count_copy(state: State, entry: Entry, peer: bytes, now: int) -> None:
    state.count.duplicates += 1
    topic = state.topics.get(entry.topic)
    if topic is not None:
        topic.duplicates += 1
    if peer not in entry.peers:
        entry.peers[peer] = None
        if entry.first:
            state.scores.delivered_also(peer, entry.topic, now - entry.accepted_at)


def _invalid(state: State, topic: Topic, peer: bytes, why: Refusal) -> None:
    topic.rejected += 1
    state.refuse(why)
    state.scores.sent_invalid(peer, topic.name)


def _note(part: bytes) -> bytes:
    return sha256(part).digest()[:NOTE_BYTES]


def _say_idontwant(state: State, topic: Topic, entry: Entry, out: Outbox) -> None:
    """Tell the mesh that a large message is here (v1.2): before the verdict, where its id is a hash of what it says.

    Where authors choose ids, that would let a forgery keep the true message away; there it is said on acceptance.
    """
    if entry.payload_bytes < state.parameters.idontwant_bytes:
        return
    field = wire.idontwant_entry([entry.message_id])
    for key in topic.mesh:
        if key not in entry.peers and state.peers[key].has_idontwant:
            state.count.idontwant_ids_sent += 1
            out.control(key, field)


# --- the verdict


def judged(state: State, message_id: bytes, verdict: Verdict, out: Outbox, now: int) -> None:
    """Act on a verdict. One that nobody waits for, any more, is counted."""
    entry = state.pending.pop(message_id)
    if entry is None:
        state.refuse(Refusal.VERDICT_UNASKED)
    elif verdict is Verdict.ACCEPT:
        _accept(state, entry, out, now)
    elif verdict is Verdict.IGNORE:
        ignore(state, entry, Refusal.IGNORED, now)
    else:
        _reject(state, entry, now)


def ignore(state: State, entry: Entry, why: Refusal, now: int) -> None:
    """Drop a message at nobody's cost, and further copies for a short time."""
    state.refuse(why)
    state.ignored.add(entry.message_id, now, _note(entry.part))
    if topic := state.topics.get(entry.topic):
        topic.ignored += 1


def _reject(state: State, entry: Entry, now: int) -> None:
    state.refuse(Refusal.REJECTED)
    state.rejected.add(entry.message_id, now, _note(entry.part))
    name = entry.topic
    if topic := state.topics.get(name):
        topic.rejected += 1
    for peer in entry.peers:
        state.scores.sent_invalid(peer, name)


def _accept(state: State, entry: Entry, out: Outbox, now: int) -> None:
    name = entry.topic
    entry.accepted_at = now
    state.seen.add(entry.message_id, now)
    state.cache.put(entry)
    for peer in entry.peers:
        if peer == entry.first:
            state.scores.delivered_first(peer, name)
        else:
            state.scores.delivered_also(peer, name, 0)
    topic = state.topics.get(name)
    if topic is None or not topic.joined:
        return
    topic.accepted += 1
    if state.parameters.policy is SignaturePolicy.SIGN:
        _say_idontwant(state, topic, entry, out)
    receivers = list(topic.mesh)
    receivers += (key for key, peer in topic.beside.items() if state.may_publish_to(peer))
    state.count.forwarded += _send(state, entry, receivers, out.effects)


def _send(state: State, entry: Entry, receivers: Iterable[bytes], effects: list[Effect]) -> int:
    """Send a message, encoded once, to those who neither sent it nor said that they have it; return to how many."""
    framed = wire.frame(entry.part)
    ids = (entry.message_id,) if entry.first else ()
    sent = 0
    for key in receivers:
        if key in entry.peers or key == entry.author:
            continue
        if entry.message_id in state.peers[key].unwanted:
            state.count.idontwant_heeded += 1
            continue
        effects.append(Send(key, framed, False, ids))
        sent += 1
    return sent


# --- own messages


def publish(state: State, message: Message, out: Outbox, now: int) -> bytes | None:
    """Publish an own message; return its id, or None if it is known already. Raises ValueError over a bound."""
    if len(message.data) > state.bounds.message_bytes:
        raise ValueError(f"a message has at most {state.bounds.message_bytes} bytes, not {len(message.data)}")
    if not _follows(state.parameters.policy, message):
        raise ValueError(
            f"the author fields of the message are not as {state.parameters.policy.name} wants them"
        )
    topic = state.topic(message.topic)
    message_id = state.message_id(message)
    if message_id in state.seen.entries or state.pending.get(message_id) is not None:
        return None
    entry = Entry(message_id, message, wire.message_part(wire.encode_message(message)), b"", now)
    state.seen.add(message_id, now)
    state.cache.put(entry)
    state.count.published += 1
    topic.published += 1
    topic.published_at = now
    if not _send(state, entry, publish_receivers(state, topic), out.effects) and not entry.peers:
        state.held.append(entry)
        if len(state.held) > state.bounds.held:
            del state.held[0]
            state.refuse(Refusal.HELD_FULL)
    return message_id


def publish_receivers(state: State, topic: Topic) -> list[bytes]:
    """Return who gets own messages: all subscribers (v1.1, "Flood Publishing"), or mesh or fanout (v1.0)."""
    if state.parameters.flood_publish:
        return [key for key, peer in topic.subscribers.items() if state.may_publish_to(peer)]
    receivers = [key for key, peer in topic.beside.items() if state.may_publish_to(peer)]
    if topic.joined:
        return [*receivers, *topic.mesh]
    fill_fanout(state, topic)
    return [*receivers, *topic.fanout]


def fill_fanout(state: State, topic: Topic) -> None:
    """Choose peers for a topic we only publish to, up to D."""
    candidates = [
        key
        for key, peer in topic.subscribers.items()
        if key not in topic.beside and key not in topic.fanout and state.may_publish_to(peer)
    ]
    lacking = max(0, state.parameters.degrees.wanted - len(topic.fanout))
    topic.fanout.update(dict.fromkeys(chosen(candidates, lacking, state.random)))
