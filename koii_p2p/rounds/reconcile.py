"""Range-based set reconciliation: two nodes learn how their records of one round differ, cheaply.

After Aljoscha Meyer, "Range-Based Set Reconciliation" (SRDS 2023), and Doug Hoyte's negentropy, which made a
wire protocol of it. Fingerprints of ranges that are equal close them; ranges that differ are split until one
side lists its ids. The cost grows with the difference and the logarithm of the sets. No bytes touch a network
here: the caller carries messages, and fetches or offers the records whose ids come out.

What items and fingerprints are is in `item_set.py`, what messages look like in `range_messages.py`. This is the
exchange, for whoever wants to speak it:

1. The initiator asks about ranges, each with its own `fingerprint` of it or with a `want`, and says `skip` about
   all others. Its first question is one fingerprint of the whole order. It never sends `ids`.
2. The responder, which remembers nothing between messages, answers what is asked, in order:
   - a fingerprint that is also its own: `skip`. Skips of neighbouring ranges, asked or not, are one skip;
   - another fingerprint: its `ids` of the range (at once, if that was the fingerprint of no items), or
     fingerprints of smaller ranges that together cover it;
   - a `want`: its `ids` of the range, be there none.
   An answer to one range may consist of several, without a skip in between. Where the message would grow
   beyond the limit, it ends: whatever lies above its last bound is not answered, even in the middle of a range
   asked about. It answers something of the first range asked about in every message.
3. The initiator closes ranges that were skipped or listed, and knows both differences of them. Where it holds
   another fingerprint than answered, it splits the range by its own items and asks with fingerprints, or asks
   with `want` when it holds few. What was not answered it asks again. With nothing left to ask, it is done.

How a side splits, and when it lists, is its own affair; here: into 16 ranges of equally many items, and no
more than 32 items are listed instead. The limit of a message is `Limits.reconcile_message_bytes`, for both.

How long it takes: a question contains all open ranges and is answered in full, which happens at most once for
each of the about log16(n) levels of splitting; or it, or the answer that it may get, fills a message. The
responder may be given new records between messages; those that come into closed ranges are found the next time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from koii_p2p.limits import Limits
from koii_p2p.rounds.item_set import EMPTY_FINGERPRINT, END, FIRST, ID_BYTES, ItemSet
from koii_p2p.rounds.range_messages import (
    LEAST_MESSAGE_BYTES,
    MessageWriter,
    Mode,
    Range,
    ReconcileError,
    parse,
    split_ids,
)

BUCKETS: Final = 16
"""How many ranges one that differs is split into."""

LISTED: Final = 2 * BUCKETS
"""A range that differs is listed, not split, up to this many items: fewer bytes than another level."""


class Step(NamedTuple):
    """What one answer told the initiator. No id occurs twice in an exchange; within a step they are in item order.

    `message`: the next question, None when the exchange is over. `have`: ids the other has and we lack.
    `need`: ids we have and the other lacks.
    """

    message: bytes | None
    have: tuple[bytes, ...]
    need: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Open:
    """A range in which a difference may be left, and how to ask about it."""

    lower: bytes
    upper: bytes
    mode: Mode  # FINGERPRINT or WANT


class Reconciler:
    """One node's side: responder to any number of peers, and initiator of one exchange at a time.

    `items` are 65 bytes each (see `item_of`), in any order, or an `ItemSet` shared with other reconcilers. Raises
    ValueError for other items, and for a message limit that could not hold one answer.
    """

    def __init__(self, items: Iterable[bytes] | ItemSet, limits: Limits) -> None:
        if limits.reconcile_message_bytes < LEAST_MESSAGE_BYTES:
            raise ValueError(f"reconcile_message_bytes is below {LEAST_MESSAGE_BYTES}")
        self._items = items if isinstance(items, ItemSet) else ItemSet(items)
        self._limits = limits
        self._open: list[_Open] = []
        self._asked = 0  # how many of the open ranges, from the first, the last question was about
        self._trips = 0
        self._found: set[bytes] = set()

    def initiate(self) -> bytes:
        """Begin an exchange, forgetting one that was under way: the first question."""
        self._open = [_Open(FIRST, END, Mode.FINGERPRINT)]
        self._trips = 0
        self._found = set()
        return self._question()

    def respond(self, message: bytes) -> bytes:
        """Answer a peer's question from the items alone, in at most `reconcile_message_bytes`.

        Raises `ReconcileError` for a message that is not a question. Takes O(size of the message) + O(log n) for
        each range asked about + O(size of the answer), whatever the peer sends.
        """
        writer = MessageWriter(self._limits.reconcile_message_bytes)
        answered = FIRST
        for asked in parse(message, self._limits.reconcile_message_bytes):
            if asked.mode is Mode.IDS:
                raise ReconcileError("A question lists ids.")
            if asked.mode is Mode.SKIP:
                continue
            reached = self._answer(asked, writer)
            answered = max(answered, reached)
            if reached < asked.upper:
                break
        return writer.message(answered)

    def receive(self, message: bytes) -> Step:
        """Take the answer to the last question.

        Raises `ReconcileError` for an answer that no honest responder gives, for more ids than a round may have
        records, and after `Limits.reconcile_round_trips` questions; the exchange is over then, and what earlier
        steps told stays as good as any peer's word. Raises RuntimeError when nothing was asked.
        """
        if not self._asked:
            raise RuntimeError("an answer without a question")
        asked, waiting = self._open[: self._asked], self._open[self._asked :]
        self._open, self._asked = [], 0  # an error below leaves no exchange
        have: list[bytes] = []
        need: list[bytes] = []
        left: list[_Open] = []
        answers = parse(message, self._limits.reconcile_message_bytes)
        next_answer = 0
        for question in asked:
            position = question.lower
            while next_answer < len(answers):
                answer = answers[next_answer]
                if answer.mode is Mode.SKIP:
                    if answer.upper <= question.lower:
                        next_answer += 1
                        continue
                    position = _skipped(question, answer, position)
                    break
                if answer.lower >= question.upper:
                    break
                if answer.lower != position or answer.upper > question.upper:
                    raise ReconcileError("An answer is about a range that was not asked about.")
                left += self._take(question, answer, have, need)
                position = answer.upper
                next_answer += 1
            if position < question.upper:
                left.append(_Open(position, question.upper, question.mode))
            if question is asked[0] and position == question.lower:
                raise ReconcileError("The first range asked about is not answered.")
        _check_end(answers, next_answer, asked[-1])
        self._open = left + waiting
        return Step(self._question() if self._open else None, tuple(have), tuple(need))

    def _answer(self, asked: Range, writer: MessageWriter) -> bytes:
        """Write what we say about one range; returns the bound up to which there was room to say it."""
        start, stop = self._items.position(asked.lower), self._items.position(asked.upper)
        if asked.mode is Mode.FINGERPRINT:
            if asked.payload == self._items.fingerprint(start, stop):
                return asked.upper
            if stop - start > LISTED and asked.payload != EMPTY_FINGERPRINT:
                return self._write_split(asked, start, stop, writer)
        return self._write_ids(asked, start, stop, writer)

    def _write_split(self, asked: Range, start: int, stop: int, writer: MessageWriter) -> bytes:
        lower = asked.lower
        for upper, first, last in self._buckets(asked.upper, start, stop):
            if not writer.add(lower, upper, Mode.FINGERPRINT, self._items.fingerprint(first, last)):
                break
            lower = upper
        return lower

    def _write_ids(self, asked: Range, start: int, stop: int, writer: MessageWriter) -> bytes:
        end = min(stop, start + writer.ids_that_fit(asked.lower))
        if end == start < stop:
            return asked.lower
        upper = asked.upper if end == stop else self._items.bound_before(end)
        added = writer.add(asked.lower, upper, Mode.IDS, b"".join(self._items.ids(start, end)))
        return upper if added else asked.lower

    def _buckets(self, upper: bytes, start: int, stop: int) -> Iterable[tuple[bytes, int, int]]:
        """(upper bound, first index, index after the last) of the ranges that one up to `upper` is split into."""
        first = start
        for bucket in range(1, BUCKETS + 1):
            last = start + (stop - start) * bucket // BUCKETS
            yield upper if last == stop else self._items.bound_before(last), first, last
            first = last

    def _take(self, question: _Open, answer: Range, have: list[bytes], need: list[bytes]) -> list[_Open]:
        """Learn from an answer to (a part of) a question; returns what to ask about that part."""
        start, stop = self._items.position(answer.lower), self._items.position(answer.upper)
        if answer.mode is Mode.IDS:
            listed = split_ids(answer.payload)
            need += self._difference(listed, start, stop, have)
            return []
        if answer.mode is not Mode.FINGERPRINT or question.mode is not Mode.FINGERPRINT:
            raise ReconcileError("An answer is of a kind that the question does not have.")
        if answer.payload == self._items.fingerprint(start, stop):
            return []
        if answer.payload == EMPTY_FINGERPRINT:
            need += self._items.ids(start, stop)
            return []
        if stop - start <= LISTED:
            return [_Open(answer.lower, answer.upper, Mode.WANT)]
        opened: list[_Open] = []
        lower = answer.lower
        for upper, _, _ in self._buckets(answer.upper, start, stop):
            opened.append(_Open(lower, upper, Mode.FINGERPRINT))
            lower = upper
        return opened

    def _difference(self, listed: list[bytes], start: int, stop: int, have: list[bytes]) -> list[bytes]:
        """Add the listed ids that we lack to `have`; returns those we hold in the range that are not listed."""
        for id in listed:
            index = self._items.index_of(id)
            if index is None:
                if id in self._found:
                    raise ReconcileError("An id is listed in two ranges.")
                self._found.add(id)
                have.append(id)
            elif not start <= index < stop:
                raise ReconcileError("An id is listed in a range that it is not in.")
        if len(self._found) > self._limits.round_records:
            raise ReconcileError("More ids are listed than a round may have records.")
        theirs = set(listed)
        return [id for id in self._items.ids(start, stop) if id not in theirs]

    def _question(self) -> bytes:
        """Ask about as many open ranges, from the first, as the message and probably its answer have room for."""
        self._asked = 0
        self._trips += 1
        if self._trips > self._limits.reconcile_round_trips:
            raise ReconcileError(f"The sets still differ after {self._trips - 1} round trips.")
        writer = MessageWriter(self._limits.reconcile_message_bytes)
        room = self._limits.reconcile_message_bytes
        for question in self._open:
            start, stop = self._items.position(question.lower), self._items.position(question.upper)
            payload = self._items.fingerprint(start, stop) if question.mode is Mode.FINGERPRINT else None
            room -= _likely_answer(stop - start)
            if room < 0 and self._asked:
                break  # it would be asked again, for nothing
            if not writer.add(question.lower, question.upper, question.mode, payload):
                break
            self._asked += 1
        return writer.message()


def _likely_answer(count: int) -> int:
    """Bytes that an answer about a range takes in which the other side holds about as many items as we do."""
    return ID_BYTES * (count + 1 if count <= LISTED else BUCKETS)


def _skipped(question: _Open, answer: Range, position: bytes) -> bytes:
    """Where a skip, which is not below the question, leaves it: untouched, or found equal from end to end."""
    if answer.lower >= question.upper:
        return position
    if question.mode is Mode.WANT or position != question.lower:
        raise ReconcileError("A range is skipped that is known to differ.")
    if answer.lower > question.lower or answer.upper < question.upper:
        raise ReconcileError("A part of a range asked about is skipped.")
    return question.upper


def _check_end(answers: list[Range], next_answer: int, last: _Open) -> None:
    """Nothing may be said beyond the last question; a skip that ends with it may be the last thing said."""
    rest = answers[next_answer:]
    if rest and (len(rest) > 1 or rest[0].mode is not Mode.SKIP or rest[0].upper > last.upper):
        raise ReconcileError("An answer goes on behind the question.")
