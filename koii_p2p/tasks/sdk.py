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
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import base58

import koii_p2p
from koii_p2p.limits import Limits
from koii_p2p.records.schema import Verdict
from koii_p2p.tasks import facts
from koii_p2p.tasks.audits import Audited
from koii_p2p.tasks.facts import Fact, ListedAmounts, PeerSeen, Result, SubmissionSeen, TaskState
from koii_p2p.tasks.folder import TaskFolder
from koii_p2p.tasks.frames import Request

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from koii_p2p.records.cose import Signer
    from koii_p2p.rounds.tally import Outcome

__all__ = [
    "Audited",
    "Blobs",
    "Collection",
    "Context",
    "Database",
    "ListedAmounts",
    "NotOffered",
    "PeerSeen",
    "RequestRefused",
    "Result",
    "Signed",
    "Store",
    "SubmissionSeen",
    "Submitter",
    "Task",
    "TaskState",
    "Verdict",
    "sign_payload",
]

Json: TypeAlias = Any
"""What `json` can write: None, bool, int, float, str, lists, and dicts with text keys."""

_SEED: Final = "koii-p2p seed"
_SIGNATURE_BYTES: Final = 64
_LONGEST_SIGNED: Final = 24 * 1024  # base58 of 64 bytes and the largest payload that a node signs
_LONGEST_KEY: Final = 44
_AS_JSON: Final = b"j"
_AS_BYTES: Final = b"b"


class Node(Protocol):
    """The way from a worker to its node."""

    async def request(self, what: Request, *arguments: object) -> object:
        """Ask the node and return its answer. Raises `RequestRefused` with the node's reason."""


class RequestRefused(Exception):
    """The node did not do what a task asked: a value too large, a full disk."""


class NotOffered(Exception):
    """Something of Koii's namespace wrapper that a task has no means for here; the text says what to use instead."""


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


class Blobs:
    """Bytes that several nodes of the task keep: whoever has the reference can read them (docs/data.md)."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def put(self, data: bytes) -> str:
        """Have bytes kept, and return their reference: text that fits into a submission.

        Raises `RequestRefused` for more than 4 MiB, a full quota, or where no node keeps data.
        """
        reference = await self._node.request(Request.BLOB_PUT, bytes(data))
        if not isinstance(reference, str):
            raise RequestRefused("The node answered with something else than a reference.")
        return reference

    async def get(self, reference: str) -> bytes:
        """The bytes of a reference. Raises `RequestRefused` if they cannot be had: in an audit that is UNAVAILABLE."""
        data = await self._node.request(Request.BLOB_GET, reference)
        if not isinstance(data, bytes):
            raise RequestRefused("The node answered with something else than bytes.")
        return data


class Collection:
    """Documents (JSON objects with an `_id`) that the nodes of the task keep together, asked as in NeDB
    (docs/collections.md). Every method raises `RequestRefused` with the node's reason.
    """

    def __init__(self, node: Node, rules: dict[str, Json]) -> None:
        self._node = node
        self._rules = rules
        self.name: Final[str] = rules["name"]

    async def insert(self, *documents: dict[str, Json]) -> list[dict[str, Json]]:
        """Write new documents, and return them with their `_id`, which is drawn where there is none. Refused if one is
        taken; two nodes that insert one `_id` at the same time both succeed, and the newest wins.
        """
        keys = await self._ask("insert", documents=list(documents))
        return [{**one, "_id": key} for one, key in zip(documents, keys, strict=True)]

    async def put(self, *documents: dict[str, Json]) -> list[str]:
        """Write documents over whatever their `_id` holds; returns every `_id`."""
        return [one["_id"] for one in await self._ask("put", documents=list(documents))]

    async def get(self, key: str) -> dict[str, Json] | None:
        """The document with this `_id`, or None."""
        found: dict[str, Json] | None = await self._ask("get", key=key)
        return found

    async def find(
        self,
        filter: dict[str, Json] | None = None,
        *,
        sort: dict[str, int] | None = None,
        skip: int = 0,
        limit: int | None = None,
        projection: dict[str, int] | None = None,
    ) -> list[dict[str, Json]]:
        """Documents that match, by `_id` unless sorted. Refused for more than 1000, or 1 MiB of JSON: ask for parts."""
        asked = {"filter": filter, "sort": sort, "skip": skip, "limit": limit, "projection": projection}
        return list(await self._ask("find", **asked))

    async def find_one(self, filter: dict[str, Json] | None = None) -> dict[str, Json] | None:
        """The first document that matches, by `_id`, or None."""
        found = await self.find(filter, limit=1)
        return found[0] if found else None

    async def count(self, filter: dict[str, Json] | None = None) -> int:
        """How many documents match; each is fetched and verified. Refused for more than 10 000."""
        return int(await self._ask("count", filter=filter))

    async def update(
        self,
        filter: dict[str, Json],
        change: dict[str, Json],
        *,
        multi: bool = False,
        upsert: bool = False,
    ) -> int:
        """Change the first document that matches, or with `multi` all; how many. With `upsert`, insert if none does.

        Each is read, changed and written: of two nodes that change one at the same time, the newest wins whole.
        """
        return int(await self._ask("update", filter=filter, change=change, multi=multi, upsert=upsert))

    async def remove(self, filter: dict[str, Json], *, multi: bool = False) -> int:
        """Remove the first document that matches, or with `multi` all; how many."""
        return int(await self._ask("remove", filter=filter, multi=multi))

    async def ensure_index(self, field: str) -> bool:
        """Index a field at this node; False if it was. `indexes` of the collection are those of every node."""
        return bool(await self._ask("index", field=field))

    async def _ask(self, call: str, **asked: Json) -> Json:
        question = json.dumps({"collection": self._rules, **asked}, allow_nan=False)
        answer = await self._node.request(Request.DB, call, question.encode())
        if not isinstance(answer, bytes):
            raise RequestRefused(f"The node answered {call} with something else than was asked.")
        return json.loads(answer)


class Database:
    """The task's collections: each is what its name and rules say, so that all nodes that name them alike share it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def collection(
        self,
        name: str,
        *,
        indexes: Sequence[str] = (),
        authors: Sequence[str] = (),
        own_keys: bool = False,
        full: bool = False,
        shards: int = 64,
        replicas: int = 3,
    ) -> Collection:
        """The collection of a name with these rules; other rules make another collection (docs/collections.md).

        Fields in `indexes` are indexed everywhere; `authors` are base58 keys that may write, all stakers if there are
        none; with `own_keys` each writes only to keys that begin with its own; with `full` every node holds everything.
        Nothing is asked yet: rules that make no sense are refused with the first question.
        """
        rules = {
            "name": name,
            "indexes": list(indexes),
            "authors": list(authors),
            "own_keys": own_keys,
            "full": full,
            "shards": shards,
            "replicas": replicas,
        }
        return Collection(self._node, rules)


class Context:
    """What a task's functions may know and ask: one object per worker, shared by calls in flight.

    `submitter` is this node's staking key, `main_account` its wallet, `task_id` the task: all base58.
    `slash_basis_points` is the task's rule for rejected submissions (7000 is 70 %). `fs` is the task's working folder,
    `folder` on disk; `node_version` is that of koii_p2p. docs/koii-names.md maps Koii's namespace wrapper to this.
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
        folder: Path | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._node = node
        most = limits or Limits()
        self.fs: Final = TaskFolder(
            folder or Path.cwd(), most_bytes=most.worker_folder_bytes, most_files=most.worker_folder_files
        )
        self.node_version: Final = koii_p2p.__version__
        self.store: Final = Store(node)
        self.data: Final = Blobs(node)
        self.db: Final = Database(node)
        self.task_id: Final = _base58(task_id)
        self.submitter: Final = _base58(submitter)
        self.main_account: Final = _base58(main_account)
        self.slash_basis_points: Final = slash_basis_points
        self.logger: Final = logger

    async def get_slot(self) -> int:
        """The K2 slot that the node saw last."""
        return (await self._clock())[0]

    async def get_round(self) -> int:
        """The period that the task is in now: Koii's floor((slot - starting slot) / round time)."""
        return (await self._clock())[1]

    async def _clock(self) -> tuple[int, int]:
        match await self._node.request(Request.CLOCK):
            case [int(slot), int(period)]:
                return slot, period
        raise RequestRefused("The node answered a question for the slot with something else.")

    async def get_average_slot_time(self) -> float:
        """Milliseconds of a slot, as the node measured it."""
        return (await self.task_state()).slot_ms

    async def task_state(self) -> TaskState:
        """The task as this node knows it now. Raises `RequestRefused` where no node runs, or before K2 was read."""
        return facts.read_task_state(await self._fact(Fact.TASK_STATE))

    async def submissions(self, round: int) -> dict[str, SubmissionSeen]:
        """The submissions of `round` that this node holds, by key; empty for a round that it no longer keeps."""
        return facts.read_submissions(await self._fact(Fact.SUBMISSIONS, round))

    async def results(self, round: int) -> dict[str, Result] | None:
        """What became of the submissions of `round`, by key: later work may build on it, since every node has the same.

        None before the round's list is anchored, and for rounds that the node no longer keeps (8 are kept). Once the
        list has passed its audit nothing of it changes, so ask in `task` of a round at least 3 later.
        """
        return facts.read_results(await self._fact(Fact.RESULTS, round))

    async def distribution_list(self, round: int) -> dict[str, ListedAmounts] | None:
        """The anchored list of `round`, by key, with totals since the task began; None if the node has none."""
        return facts.read_list(await self._fact(Fact.LIST, round))

    async def nodes(self) -> tuple[PeerSeen, ...]:
        """The nodes of this task that said where they are, newest word of each, sorted by key."""
        return facts.read_nodes(await self._fact(Fact.NODES))

    async def _fact(self, name: Fact, *arguments: int) -> bytes:
        found = await self._node.request(Request.FACT, name.value, *arguments)
        if not isinstance(found, bytes):
            raise RequestRefused(f"The node answered {name.value} with something else than was asked.")
        return found

    async def sign(self, payload: Json | bytes) -> str:
        """Have the node sign `payload` with its staking key; base58 of signature (64 bytes) and payload.

        The signature covers this task's id as well, so that it means nothing to another task, to K2 or to
        other nodes' records. Raises `RequestRefused` for more than 16 KiB.
        """
        body = _payload_body(payload)
        signature = await self._node.request(Request.SIGN, body)
        if not isinstance(signature, bytes):
            raise RequestRefused("The node answered a request to sign with something else than a signature.")
        return _base58(signature + body)

    async def seed(self, *about: Json) -> bytes:
        """32 bytes to draw a sample with (`audits.sample_items`): nobody else can know them, and they do not change.

        The SHA-256 of this node's signature over `about`, such as the round and the submitter: Ed25519 signatures are
        deterministic (RFC 8032). What follows from keys and rounds alone a submitter works out beforehand for everybody
        who may come to audit, and does the work of those samples only.
        """
        return sha256((await self.sign([_SEED, *about])).encode()).digest()

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
        """Do the work of `round`, in the period of that number.

        If it raises, it is called again while the period lasts, later each time: what it did before must do no harm.
        """

    async def submission(self, ctx: Context, round: int) -> str | bytes | None:
        """The proof of the work of `round`: at most 512 bytes (text in UTF-8); None to submit nothing."""
        raise NotImplementedError(f"{type(self).__name__} has no function submission")

    async def audit(
        self, ctx: Context, submission: str | bytes, round: int, submitter: str
    ) -> bool | Verdict | Audited | None:
        """Judge what another node submitted for `round`. True is VALID, False is INVALID; `Audited` says why as well
        (`koii_p2p.tasks.audits`).

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

    def routes(self, ctx: Context) -> Sequence[BaseRoute]:
        """The task's HTTP routes, Starlette's; none unless overridden. Another ASGI application fits in as
        `Mount("/", app=...)`.

        A node that serves REST (`join --task-host`, `--task-port`) answers `/task/<id>/...` with them, in a worker of
        their own, and signs each reply (`koii_p2p.tasks.stamps`). `koii_p2p.tasks.routes` says who asks.
        """
        return ()


def sign_payload(signer: Signer, task: bytes, payload: Json | bytes) -> str:
    """What `Context.sign` makes on a node with this key, for whoever has the key itself: a client of a task's REST."""
    from koii_p2p.tasks.services import payload_message  # the node's side: a worker imports little

    body = _payload_body(payload)
    return _base58(signer.sign(payload_message(task, body)) + body)


def _payload_body(payload: Json | bytes) -> bytes:
    return _AS_BYTES + payload if isinstance(payload, bytes) else _AS_JSON + _canonical_json(payload)


def _canonical_json(value: Json) -> bytes:
    """JSON with sorted keys and no spaces: the same value is the same bytes on every node."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def _base58(data: bytes) -> str:
    return base58.b58encode(data).decode("ascii")
