"""Several RPC nodes as one: whom to ask, what to make of their answers, and when to believe them.

An RPC node can be away, behind, rate-limited, or lying. Three ways to ask follow from what is at stake:

- `ask`: one node's word is enough, so the first that answers is taken, the healthiest first;
- `agree`: money or a verdict hangs on it, so a quorum of nodes must give the same answer;
- `tell`: the more nodes hear it the better, so all are told (a transaction, again and again).

With one node, each of these is that node's answer. The quorum is a majority unless given: one of one, two of
two or three, three of four or five. So three nodes bear one that is away, behind or lying; two nodes bear a
liar (nothing is believed) but not an absence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

import structlog
import trio

from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.settlement.jsonrpc import (
    INTERNAL_ERROR,
    TRY_ELSEWHERE,
    JsonRpcConnection,
    RpcError,
    RpcProtocolError,
    RpcStatistics,
    RpcUnreachable,
)
from koii_p2p.settlement.rpc_replies import ReplyError

_log = structlog.get_logger(__name__)

_BETWEEN_URLS = re.compile(r"[,\s]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_MOST_NODES = 16
_GRACE_SECONDS = 1.0  # for the slower nodes, once a quorum has answered
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0
_FIRST_REST = 1.0
_LONGEST_REST = 30.0
_SOCKET_REST = 60.0

T = TypeVar("T")
Read = Callable[[Any], T]


class RpcDisagreement(ChainError):
    """The nodes contradict each other, and no quorum says the same. None of them is believed."""

    def __init__(self, method: str, quorum: int, told: Sequence[str]) -> None:
        super().__init__(
            f"The K2 nodes do not agree about {method}.",
            f"{quorum} must say the same; {'; '.join(told)}.",
            "Wait if some are behind; else find out which of them is wrong, and replace it.",
        )
        self.method = method


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """One node: whether it is passed over now after failures in a row, and how often a quorum outvoted it."""

    url: str
    resting: bool
    failures: int
    outvoted: int


class NodeConnection(JsonRpcConnection):
    """One node with its record. `usable` says whether it is worth asking first."""

    def __init__(self, url: str, limits: Limits) -> None:
        super().__init__(url, limits=limits)
        self.failures = 0
        self.outvoted = 0
        self.socket_rests_until = 0.0
        self._rests_until = 0.0

    @property
    def usable(self) -> bool:
        """Whether it answered last time, or has rested since it did not."""
        return not self.failures or trio.current_time() >= self._rests_until

    async def read(self, method: str, params: Sequence[Any], read: Read[T], *, retry: bool) -> T:
        """The result of one call as `read` understands it.

        Raises:
            RpcUnreachable, RpcError, RpcProtocolError: as `call`; the last also if `read` refuses the result.
        """
        try:
            result = await self.call(method, params, retry=retry)
            try:
                value = read(result)
            except ReplyError as error:
                self.reject(method, f"In the reply, {error}")
        except RpcError as error:
            if error.code in TRY_ELSEWHERE:
                self.failed()
            else:
                self.failures = 0
            raise
        except ChainError:
            self.failed()
            raise
        self.failures = 0
        return value

    def failed(self) -> None:
        """Note that it gave no usable answer: it rests, longer each time in a row."""
        self.failures += 1
        rest = min(_FIRST_REST * 2.0 ** min(self.failures - 1, 10), _LONGEST_REST)
        self._rests_until = trio.current_time() + rest


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What one node said: a value, or an error."""

    node: NodeConnection
    value: T | None
    error: ChainError | None

    def same(self, other: Answer[T]) -> bool:
        """Whether both say the same. Equal error codes that speak of the question are the same answer."""
        if self.error is None and other.error is None:
            return bool(self.value == other.value)
        return _refusal(self.error) is not None and _refusal(self.error) == _refusal(other.error)

    def speaks(self) -> bool:
        """Whether this is an answer to the question at all."""
        return self.error is None or _refusal(self.error) is not None


Merge = Callable[[Sequence[T], int], T]
"""Makes one value of at least `quorum` values that need not be equal, so that no minority can push it."""


class RpcNodes:
    """The RPC nodes of one cluster. Use `async with`, or call `aclose()`."""

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        limits: Limits = Limits(),  # noqa: B008 - a frozen value
        quorum: int | None = None,
    ) -> None:
        """Name the nodes: one URL, several with commas between them, or a sequence. Nothing is sent yet.

        Raises:
            ConfigurationError: a URL is not http:// or https:// with a host, there are none or too many, one
            is named twice, or the quorum is less than one or more than all.
        """
        urls = urls_of(url)
        self._limits = limits
        self._nodes = tuple(NodeConnection(one, limits) for one in urls)
        self.quorum = len(urls) // 2 + 1 if quorum is None else quorum
        if not 1 <= self.quorum <= len(urls):
            raise ConfigurationError(
                f"A quorum of {self.quorum} RPC nodes is not possible.",
                f"{len(urls)} are named.",
                "Choose a quorum from 1 to that number, or leave it to be a majority.",
            )

    async def __aenter__(self) -> RpcNodes:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. Closing twice is allowed."""
        for node in self._nodes:
            await node.aclose()

    @property
    def url(self) -> str:
        """The URLs, as they may be shown: without passwords and queries."""
        return ", ".join(node.url for node in self._nodes)

    def statistics(self) -> RpcStatistics:
        """Counts of all nodes together since the client was made."""
        each = [node.statistics() for node in self._nodes]
        names = RpcStatistics.__dataclass_fields__
        return RpcStatistics(**{name: sum(getattr(one, name) for one in each) for name in names})

    def nodes(self) -> tuple[NodeStatistics, ...]:
        """Each node's record, in the order in which they were named."""
        return tuple(
            NodeStatistics(node.url, not node.usable, node.failures, node.outvoted) for node in self._nodes
        )

    def socket_urls(self) -> tuple[str, ...]:
        """HTTP URLs of nodes whose WebSocket may be tried, the healthiest first."""
        now = trio.current_time()
        return tuple(node.full_url for node in self._by_health() if now >= node.socket_rests_until)

    def socket_failed(self, url: str) -> None:
        """Note that the WebSocket of one of these URLs cannot be used; it is not tried for a minute."""
        for node in self._nodes:
            if node.full_url == url:
                node.socket_rests_until = trio.current_time() + _SOCKET_REST

    def reject(self, method: str, why: str) -> NoReturn:
        """Say that what the nodes agreed on cannot be used: raise `RpcProtocolError`."""
        self._nodes[0].reject(method, why)

    async def ask(self, method: str, params: Sequence[Any], read: Read[T], *, retry: bool = True) -> T:
        """One node's answer: of the first, in order of their health, that has one.

        `retry=False` is for what must not happen twice: only one node is asked, once.

        Raises:
            RpcUnreachable, RpcProtocolError, RpcError: of the last node, if none could answer; an `RpcError`
            that speaks of the question is raised at once.
        """
        order = self._by_health() if retry else self._by_health()[:1]
        for node in order[:-1]:
            # A node that hangs must leave time for the next.
            with trio.move_on_after(self._limits.rpc_deadline / 2):
                try:
                    return await node.read(method, params, read, retry=False)
                except RpcError as error:
                    if error.code not in TRY_ELSEWHERE:
                        raise
                    continue
                except (RpcUnreachable, RpcProtocolError):
                    continue
            node.failed()
            _log.info("rpc_node_hangs", url=node.url, method=method)
        return await order[-1].read(method, params, read, retry=retry)

    async def agree(
        self, method: str, params: Sequence[Any], read: Read[T], merge: Merge[T] | None = None
    ) -> T:
        """What a quorum of nodes says: the same value, or the value that `merge` makes of theirs.

        Nodes at different slots may differ for a moment, so they are asked again, for `limits.rpc_deadline`
        seconds.

        Raises:
            RpcDisagreement: they answer, and contradict each other.
            RpcUnreachable, RpcProtocolError: fewer than a quorum have a usable answer.
            RpcError: a quorum refused the call in the same way.
        """
        if len(self._nodes) == 1:
            return await self._nodes[0].read(method, params, read, retry=True)
        everyone = False
        pause = _FIRST_PAUSE
        give_up = trio.current_time() + self._limits.rpc_deadline
        while True:
            answers = await self._answers(method, params, read, merge is None, everyone=everyone)
            agreed = self._voted(answers, merge)
            if agreed is not None:
                if merge is None:
                    for one in answers:
                        one.node.outvoted += one.speaks() and not one.same(agreed)
                if agreed.error is not None:
                    raise agreed.error
                return agreed.value  # type: ignore[return-value]
            if trio.current_time() + pause >= give_up:
                raise self._no_quorum(method, answers)
            await trio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            everyone = True

    async def tell(self, method: str, params: Sequence[Any], read: Read[T]) -> T:
        """Tell all nodes; the answer of one that took it.

        Raises:
            RpcError: a quorum refused it in the same way, or all that were told did.
            RpcUnreachable, RpcProtocolError: none took it for sure, and one may have.
        """
        if len(self._nodes) == 1:
            return await self._nodes[0].read(method, params, read, retry=True)
        answers = await self._answers(method, params, read, False)
        refusals = [one for one in answers if _refusal(one.error) is not None]
        for one in refusals:
            if one.error is not None and sum(one.same(other) for other in refusals) >= self.quorum:
                raise one.error
        for one in answers:
            if one.error is None:
                return one.value  # type: ignore[return-value]
        raise min((one.error for one in answers if one.error is not None), key=_certainty)

    # -- inner workings

    def _by_health(self) -> list[NodeConnection]:
        """Every node: those that answered last time first, in the order in which they were named."""
        return sorted(self._nodes, key=lambda node: (not node.usable, node.failures))

    async def _answers(
        self,
        method: str,
        params: Sequence[Any],
        read: Read[T],
        stop_when_agreed: bool,
        *,
        everyone: bool = False,
    ) -> list[Answer[T]]:
        """What the nodes say. Those that rest are left out while a quorum is left, and an absence costs
        the others only a moment."""
        asked = [node for node in self._nodes if node.usable]
        if everyone or len(asked) < self.quorum:
            asked = list(self._nodes)
        answers: list[Answer[T]] = []
        agreed = False
        with trio.CancelScope() as scope:

            async def ask_one(node: NodeConnection) -> None:
                nonlocal agreed
                try:
                    answer = Answer(node, await node.read(method, params, read, retry=True), None)
                except ChainError as error:
                    answer = Answer(node, None, error)
                answers.append(answer)
                if sum(one.speaks() for one in answers) >= self.quorum:
                    agreed = stop_when_agreed and self._voted(answers, None) is not None
                    wait = 0.0 if agreed else _GRACE_SECONDS
                    scope.deadline = min(scope.deadline, trio.current_time() + wait)

            async with trio.open_nursery() as nursery:
                for node in asked:
                    nursery.start_soon(ask_one, node)
        if not agreed:
            for node in asked:
                if all(one.node is not node for one in answers):
                    node.failed()
                    late = RpcUnreachable(node.url, method, "The others answered long before")
                    answers.append(Answer(node, None, late))
        return answers

    def _voted(self, answers: Sequence[Answer[T]], merge: Merge[T] | None) -> Answer[T] | None:
        """The answer of a quorum, or None."""
        values = [one.value for one in answers if one.error is None]
        if merge is not None and len(values) >= self.quorum:
            return Answer(answers[0].node, merge(values, self.quorum), None)  # type: ignore[arg-type]
        for one in answers:
            votes = sum(one.same(other) for other in answers)
            if one.speaks() and votes >= self.quorum and (merge is None or one.error is not None):
                return one
        return None

    def _no_quorum(self, method: str, answers: Sequence[Answer[T]]) -> ChainError:
        spoken = [one for one in answers if one.speaks()]
        silent = [one.error for one in answers if one.error is not None and not one.speaks()]
        if len(spoken) < self.quorum and silent:
            return silent[-1]
        told = [f"{one.node.url} says {_shown(one)}" for one in spoken]
        return RpcDisagreement(method, self.quorum, told)


def urls_of(url: str | Sequence[str]) -> tuple[str, ...]:
    """The URLs in a setting: one, or several with commas or spaces between them.

    Raises:
        ConfigurationError: none, too many, or one twice.
    """
    parts: Iterable[str] = _BETWEEN_URLS.split(url.strip()) if isinstance(url, str) else url
    urls = tuple(one.strip().rstrip(",") for one in parts)
    if not 1 <= len(urls) <= _MOST_NODES:
        raise ConfigurationError(
            f"{len(urls)} RPC nodes cannot be used.",
            f"From 1 to {_MOST_NODES} are possible.",
            "Name three or five for a quorum that bears an absence.",
        )
    if len(set(urls)) < len(urls):
        raise ConfigurationError(
            "One RPC node is named twice.",
            "It would have two votes.",
            "Name each node once.",
        )
    return urls


def highest_of_quorum(values: Sequence[int], quorum: int) -> int:
    """The number that `quorum` nodes have reached: a minority can neither push it up nor hold it down."""
    return sorted(values, reverse=True)[quorum - 1]


def _certainty(error: ChainError) -> int:
    """How sure it is that who answered so has not taken what it was told: 0 is not at all."""
    if isinstance(error, RpcUnreachable):
        return 0 if error.may_be_done else 2
    if not isinstance(error, RpcError) or error.may_be_done or error.code == INTERNAL_ERROR:
        return 0
    return 1 if _refusal(error) is not None else 2


def _refusal(error: ChainError | None) -> object:
    """What tells refusals apart that speak of the question; None for anything else."""
    if not isinstance(error, RpcError) or error.code in TRY_ELSEWHERE:
        return None
    data = error.data if isinstance(error.data, dict) else {}
    return (error.code, str(data.get("err")))


def _shown(answer: Answer[Any]) -> str:
    if isinstance(answer.error, RpcError):
        return f"error {answer.error.code}"
    text = repr(answer.value)
    return text if len(text) <= 80 else f"{text[:80]}..."
