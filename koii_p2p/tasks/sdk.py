"""What a task author writes against: `Task` with Koii's functions, and the `Context` each of them is given.

Koii docs: develop/write-a-koii-task; the names follow the current template (task, submission, audit,
distribution, routes). Keys are base58 text here, as in Koii's documents. A task runs in a worker process
that holds no secret key: whatever needs one is a request to the node.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import base58

from koii_p2p.records.schema import Verdict
from koii_p2p.tasks.frames import Request

if TYPE_CHECKING:
    from koii_p2p.rounds.tally import Outcome

__all__ = ["Context", "Signed", "Store", "Submitter", "Task", "Verdict"]

Json: TypeAlias = Any
"""What `json` can write: None, bool, int, float, str, lists, and dicts with text keys."""

_SIGNATURE_BYTES: Final = 64
_LONGEST_SIGNED: Final = 24 * 1024  # base58 of 64 bytes and the largest payload that a node signs
_LONGEST_KEY: Final = 44
_AS_JSON: Final = b"j"
_AS_BYTES: Final = b"b"


class Node(Protocol):
    """The way from a worker to its node."""

    async def request(self, what: Request, *arguments: object) -> object:
        """Ask the node and return its answer. Raises `RequestRefused` with the node's reason."""

    def now(self) -> tuple[int, int]:
        """The slot and the period that the node told last."""


class RequestRefused(Exception):
    """The node did not do what a task asked: a value too large, a full disk."""


@dataclass(frozen=True, slots=True)
class Submitter:
    """One key that submitted in the round, as `distribution` sees it.

    `stake` is in Roe at the start of the round. `votes` is Koii's number: 1 approved, -1 rejected, 0 neither.
    """

    public_key: str
    outcome: Outcome
    stake: int

    @property
    def votes(self) -> int:
        """Koii's sum of votes, reduced to its sign (Koii docs: positive is paid, negative is slashed)."""
        from koii_p2p.rounds.tally import Outcome

        return {Outcome.APPROVED: 1, Outcome.REJECTED: -1}.get(self.outcome, 0)


@dataclass(frozen=True, slots=True)
class Signed:
    """What `Context.verify` found.

    True as a condition exactly if the signature is good; `payload` is None if not.
    """

    valid: bool
    payload: Json | bytes = None

    def __bool__(self) -> bool:
        return self.valid


class Store:
    """The task's own key-value store, kept by the node: it survives restarts, and no other task sees it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def get(self, key: str) -> Json | bytes:
        """The value under `key` as it was set (text, bytes or JSON), or None."""
        data = await self._node.request(Request.STORE_GET, key)
        if not isinstance(data, bytes):
            return None
        return data[1:] if data[:1] == _AS_BYTES else json.loads(data[1:])

    async def set(self, key: str, value: Json | bytes) -> None:
        """Keep bytes, text, or anything that JSON can write. Raises `TypeError` for other values.

        Raises `RequestRefused` for a key over 256 bytes or a value over 1 MiB.
        """
        if isinstance(value, bytes | bytearray | memoryview):
            data = _AS_BYTES + bytes(value)
        else:
            data = _AS_JSON + json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        await self._node.request(Request.STORE_SET, key, data)

    async def delete(self, key: str) -> None:
        """Forget `key`; nothing happens if it is not there."""
        await self._node.request(Request.STORE_DELETE, key)


class Context:
    """What a task's functions may know and ask: one object per worker, shared by calls in flight.

    `submitter` is this node's staking key, `main_account` its wallet, `task_id` the task: all base58.
    `slash_basis_points` is the task's rule for rejected submissions (7000 is 70 %).
    """

    def __init__(
        self,
        node: Node,
        *,
        task_id: bytes,
        submitter: bytes,
        main_account: bytes,
        slash_basis_points: int,
        logger: logging.Logger,
    ) -> None:
        self._node = node
        self.store: Final = Store(node)
        self.task_id: Final = _base58(task_id)
        self.submitter: Final = _base58(submitter)
        self.main_account: Final = _base58(main_account)
        self.slash_basis_points: Final = slash_basis_points
        self.logger: Final = logger

    async def get_slot(self) -> int:
        """The K2 slot that the node saw last."""
        return self._node.now()[0]

    async def get_round(self) -> int:
        """The period that the task is in now: Koii's floor((slot - starting slot) / round time)."""
        return self._node.now()[1]

    async def sign(self, payload: Json | bytes) -> str:
        """Have the node sign `payload` with its staking key; base58 of signature (64 bytes) and payload.

        The signature covers this task's id as well, so that it means nothing to another task, to K2 or to
        other nodes' records. Raises `RequestRefused` for more than 16 KiB.
        """
        body = _AS_BYTES + payload if isinstance(payload, bytes) else _AS_JSON + _canonical_json(payload)
        signature = await self._node.request(Request.SIGN, body)
        if not isinstance(signature, bytes):
            raise RequestRefused("The node answered a request to sign with something else than a signature.")
        return _base58(signature + body)

    async def verify(self, signed: object, public_key: object) -> Signed:
        """Check what `sign` returned on the node with the staking key `public_key`, and unpack its payload.

        False for anything that is not such a signature, malformed text and keys included: it never raises
        for what another node sent.
        """
        if not (isinstance(signed, str) and isinstance(public_key, str)):
            return Signed(False)
        if len(signed) > _LONGEST_SIGNED or len(public_key) > _LONGEST_KEY:
            return Signed(False)  # before decoding, whose time grows with the square of the length
        try:
            data, key = base58.b58decode(signed), base58.b58decode(public_key)
        except ValueError:
            return Signed(False)
        signature, body = data[:_SIGNATURE_BYTES], data[_SIGNATURE_BYTES:]
        if (
            len(key) != 32
            or not body
            or await self._node.request(Request.VERIFY, body, signature, key) is not True
        ):
            return Signed(False)
        if body[:1] == _AS_BYTES:
            return Signed(True, body[1:])
        try:
            return Signed(True, json.loads(body[1:]))
        except (ValueError, RecursionError):
            return Signed(False)


class Task:
    """Subclass this once in `task.py`. Functions may be `async def`, or plain `def` (run in a thread).

    A node makes one instance per worker process; attributes live until the worker is restarted, `ctx.store`
    for ever.
    """

    async def setup(self, ctx: Context) -> None:
        """Called once in each new worker, before anything else.

        If it raises, the worker is started again later.
        """

    async def task(self, ctx: Context, round: int) -> None:
        """Do the work of `round`, in the period of that number."""

    async def submission(self, ctx: Context, round: int) -> str | bytes | None:
        """The proof of the work of `round`: at most 512 bytes (text in UTF-8); None to submit nothing."""
        raise NotImplementedError(f"{type(self).__name__} has no function submission")

    async def audit(
        self, ctx: Context, submission: str | bytes, round: int, submitter: str
    ) -> bool | Verdict | None:
        """Judge what another node submitted for `round`. True is VALID, False is INVALID.

        None, an exception or running out of time is UNAVAILABLE: only an explicit no can ever lead to a
        slash.
        """
        raise NotImplementedError(f"{type(self).__name__} has no function audit")

    async def distribution(
        self, ctx: Context, submitters: Sequence[Submitter], bounty: int, round: int
    ) -> dict[str, int]:
        """Base58 key -> Roe: a reward if positive, a slash if negative; integers, rewards within `bounty`.

        Unless overridden, Koii's rule: approved submitters share the bounty equally, rejected ones lose
        `ctx.slash_basis_points` of their stake. Every node must compute the same: no clock, no randomness,
        no network.
        """
        from koii_p2p.rounds import distribution

        amounts = distribution.default_distribution(
            [
                distribution.Submitter(base58.b58decode(one.public_key), one.outcome, one.stake)
                for one in submitters
            ],
            bounty,
            ctx.slash_basis_points,
        )
        return {_base58(key): amount for key, amount in amounts.items()}

    def routes(self) -> None:
        """The task's HTTP routes; none."""
        return


def _canonical_json(value: Json) -> bytes:
    """JSON with sorted keys and no spaces: the same value is the same bytes on every node."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def _base58(data: bytes) -> str:
    return base58.b58encode(data).decode("ascii")
