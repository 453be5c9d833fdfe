"""Whether others can dial this node: it asks peers to try, and believes only those that then stand at its door.

Protocol `/koii/dialback/1`, a request: 16 bytes of nonce, then 1 to `Limits.dialback_ports` TCP ports of 2 bytes each,
big-endian. The peer dials the IP address that the asker's connection comes from, and no other (the amplification rule
of AutoNAT v2: nobody is made to dial third parties), with a new socket and the whole handshake, and says the nonce and
the port on the new connection: protocol `/koii/dialback-proof/1`, 18 bytes. The answer to the request is JSON:

    {"seen": "/ip4/198.51.100.7", "ports": [[4001, "reached"], [4002, "Connection refused"]]}

or {"refused": "why"}. A success counts only with its proof, so that a peer cannot lie a node into telling an address
where nobody gets through; a failure is a peer's word, and one success is worth more than any number of them.

Source of the rules: https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md
"""

from __future__ import annotations

import ipaddress
import json
import math
import secrets
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import structlog
import trio

from koii_p2p.limits import Limits
from koii_p2p.network.admission import address_range
from koii_p2p.network.containment import Guard
from koii_p2p.network.dht.addresses import encoded, ip_of
from koii_p2p.network.identity import multiaddr_text, peer_id_text
from koii_p2p.network.requests import RequestFailed, RequestReason
from koii_p2p.network.streams import PeerStream

log = structlog.get_logger(__name__)

ASK: Final = "/koii/dialback/1"
PROOF: Final = "/koii/dialback-proof/1"
NONCE_BYTES: Final = 16
PORT_BYTES: Final = 2
REACHED: Final = "reached"
ANSWER_BYTES: Final = 4096
WHY_CHARACTERS: Final = 80
REMEMBERED: Final = 1024
TICK_SECONDS: Final = 1.0
SETTLE_SECONDS: Final = 1.0
"""A connection is so old before its peer is asked: identify and gossip come first."""


class Access(StrEnum):
    """Whether nodes of the Internet can dial this one."""

    PUBLIC = "public"
    PRIVATE = "private"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one peer found when it dialled us."""

    peer_id: str
    place: str
    """Where it dialled: the IP address that it sees us at, and a port of ours, as a multiaddr."""
    reached: bool
    """Whether it got through, proved by a connection that came in."""
    why: str
    """Why it did not; empty if it did."""
    at: float
    """`trio.current_time()`."""

    @property
    def of_internet(self) -> bool:
        """Whether the peer sees us at an address of the Internet, so that it tells what others of it would find."""
        return ipaddress.ip_address(self.place.split("/")[2]).is_global


@dataclass(frozen=True, slots=True)
class Assessment:
    """What follows from the verdicts."""

    access: Access
    agreeing: int
    """Peers whose verdict says so (those that dialled in by themselves are among them)."""
    asked: int
    """Peers of the Internet with a verdict."""
    confirmed: tuple[str, ...]
    """Places at which we were reached, without a PeerId: for each kind of address the one most peers name."""
    failed: tuple[str, ...]
    """Places of the Internet at which at least two peers did not reach us, and none did."""


def assess(verdicts: Iterable[Verdict], dialled_in: int = 0) -> Assessment:
    """Weigh verdicts; `dialled_in` peers of the Internet have connected to us by themselves.

    Public if anybody got through, private if nobody who tried did, unknown if nobody of the Internet tried.
    """
    found = tuple(verdicts)
    outside = [one for one in found if one.of_internet]
    through = {one.peer_id for one in outside if one.reached}
    tried = {one.peer_id for one in outside}
    if through or dialled_in:
        access, agreeing = Access.PUBLIC, len(through) + dialled_in
    elif tried:
        access, agreeing = Access.PRIVATE, len(tried)
    else:
        access, agreeing = Access.UNKNOWN, 0
    places = Counter(one.place for one in found if one.reached)
    confirmed: dict[tuple[str, bool], str] = {}
    for place, _count in places.most_common():
        ip = ipaddress.ip_address(place.split("/")[2])
        confirmed.setdefault((place.split("/")[1], ip.is_global), place)
    missed = Counter(place for _, place in {(one.peer_id, one.place) for one in outside if not one.reached})
    return Assessment(
        access,
        agreeing,
        len(tried) + dialled_in,
        tuple(confirmed.values()),
        tuple(sorted(place for place, count in missed.items() if count > 1 and place not in places)),
    )


def seen_ipv4(verdicts: Iterable[Verdict]) -> str | None:
    """Return the IPv4 address of the Internet that most peers say we are at; None if none does.

    Peers that punch holes dial it, so no single liar chooses it.
    """
    said = {(one.peer_id, one.place.split("/")[2]) for one in verdicts if one.of_internet}
    seen = Counter(ip for _, ip in sorted(said) if ipaddress.ip_address(ip).version == 4)
    return seen.most_common(1)[0][0] if seen else None


#: `dial(key, address, proof)`: connect to a peer anew, and give it the proof. Raises whatever a dial raises.
Dial = Callable[[bytes, str, bytes], Awaitable[None]]


class DialBack:
    """The side that dials when asked to."""

    def __init__(
        self,
        dial: Dial,
        seen_at: Callable[[bytes], str | None],
        has_room: Callable[[bytes], bool],
        limits: Limits,
    ) -> None:
        """`seen_at(key)` is the IP address that a peer's direct connection comes from, None if it has none;
        `has_room(key)` says whether another connection with it can be made.
        """
        self._dial = dial
        self._seen_at = seen_at
        self._has_room = has_room
        self._limits = limits
        self._last: OrderedDict[bytes, float] = OrderedDict()
        self._recent: list[float] = []
        self.dialled = self.refused = 0

    async def answer(self, key: bytes, request: bytes) -> bytes:
        """Answer a request (see the module). Never raises for what a peer sends."""
        said = await self._answer(key, request)
        return json.dumps(said).encode()

    async def _answer(self, key: bytes, request: bytes) -> dict[str, Any]:
        body = request[NONCE_BYTES:]
        ports = [int.from_bytes(body[at : at + PORT_BYTES], "big") for at in range(0, len(body), PORT_BYTES)]
        if len(body) % PORT_BYTES or not 0 < len(ports) <= self._limits.dialback_ports or 0 in ports:
            return self._refuse("the request makes no sense")
        ip = self._seen_at(key)
        if ip is None:
            return self._refuse("there is a relay between us")
        if not self._has_room(key):
            return self._refuse("there is no room for a connection")
        if not self._may(key, trio.current_time()):
            return self._refuse("too many requests")
        results: dict[int, str] = {}

        async def try_one(port: int) -> None:
            self.dialled += 1
            results[port] = await self._try(key, multiaddr_text(ip, port), request[:NONCE_BYTES], port)

        async with trio.open_nursery() as nursery:
            for port in dict.fromkeys(ports):
                nursery.start_soon(try_one, port)
        return {"seen": multiaddr_text(ip, 0).rpartition("/tcp/")[0], "ports": sorted(results.items())}

    def _refuse(self, why: str) -> dict[str, Any]:
        self.refused += 1
        return {"refused": why}

    def _may(self, key: bytes, now: float) -> bool:
        self._recent = [at for at in self._recent if now - at < 60.0]
        if len(self._recent) >= self._limits.dialbacks_per_minute:
            return False
        if now - self._last.get(key, -math.inf) < self._limits.dialback_every:
            return False
        self._recent.append(now)
        self._last[key] = now
        self._last.move_to_end(key)
        while len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        return True

    async def _try(self, key: bytes, address: str, nonce: bytes, port: int) -> str:
        with trio.move_on_after(self._limits.dialback_deadline):
            try:
                await self._dial(key, address, nonce + port.to_bytes(PORT_BYTES, "big"))
            except Exception as error:  # noqa: BLE001 - whatever the library raises, it is a dial that failed
                return innermost(error)[:WHY_CHARACTERS]
            return REACHED
        return f"no answer within {self._limits.dialback_deadline:g} s"


#: `ask(key, protocol, payload, deadline)`; raises `RequestFailed`.
Ask = Callable[[bytes, str, bytes, float], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A directly connected peer that could be asked."""

    key: bytes
    ip: str
    """Where we see it."""
    seconds: float
    """How long it is connected."""


class Reachability:
    """The side that asks."""

    def __init__(
        self,
        ask: Ask,
        neighbours: Callable[[], Sequence[Neighbour]],
        ports: Callable[[], Sequence[int]],
        guard: Guard,
        limits: Limits,
    ) -> None:
        """`neighbours()` are the peers that could dial us now: none while we could take no connection."""
        self._guard = guard
        self._ask = ask
        self._neighbours = neighbours
        self._ports = ports
        self._limits = limits
        self._verdicts: dict[tuple[bytes, str], Verdict] = {}
        self._asked_at: dict[bytes, float] = {}
        self._proofs: dict[bytes, tuple[bytes, set[int]]] = {}
        """By nonce: the peer that was asked, and the ports at which it proved to get through."""

    async def run(self) -> None:
        """Ask a few peers, and again after a while, for ever. Peers on this machine have nothing to tell."""
        while True:
            await trio.sleep(TICK_SECONDS)
            now = trio.current_time()
            with self._guard.contain("reachability"):
                self._forget(now)
                for neighbour in self._due(now):
                    await self.ask(neighbour.key)

    async def ask(self, key: bytes) -> tuple[Verdict, ...]:
        """Ask a peer to dial us; return what came of it, nothing if it would not, could not, or does not know how."""
        ports = tuple(dict.fromkeys(self._ports()))[: self._limits.dialback_ports]
        ip = next((one.ip for one in self._neighbours() if one.key == key), None)
        if not ports or ip is None:
            return ()
        outside = ipaddress.ip_address(ip).is_global
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._asked_at[key] = trio.current_time()
        self._proofs[nonce] = (key, set())
        body = b"".join(port.to_bytes(PORT_BYTES, "big") for port in ports)
        try:
            raw = await self._ask(key, ASK, nonce + body, 2 * self._limits.dialback_deadline)
            await trio.sleep(0)
            proved = self._proofs[nonce][1]
            now = trio.current_time()
            verdicts = read_answer(raw, peer_id_text(key), proved, ports, now, outside=outside)
        except RequestFailed as error:
            if error.reason is RequestReason.REFUSED:
                log.debug("dialback_unknown", peer_id=peer_id_text(key))
            return ()
        except ValueError as error:
            log.debug("dialback_answer", peer_id=peer_id_text(key), error=str(error))
            return ()
        finally:
            del self._proofs[nonce]
        if verdicts:
            self._verdicts = {at: one for at, one in self._verdicts.items() if at[0] != key}
            self._verdicts |= {(key, one.place): one for one in verdicts}
            for one in verdicts:
                log.info(
                    "dialled_back", peer_id=one.peer_id, place=one.place, reached=one.reached, why=one.why
                )
        return verdicts

    async def prove(self, stream: PeerStream) -> None:
        """Take a proof, on a stream of its protocol over the connection that the peer has just made."""
        stream.link.spare = True
        proof = b""
        with trio.fail_after(self._limits.dialback_deadline):
            while len(proof) < NONCE_BYTES + PORT_BYTES and (
                data := await stream.read_some(NONCE_BYTES + PORT_BYTES)
            ):
                proof += data
        asked = self._proofs.get(proof[:NONCE_BYTES])
        direct = not (stream.link.is_initiator or stream.link.relayed or stream.link.punched)
        if asked is not None and asked[0] == stream.key and direct and len(proof) == NONCE_BYTES + PORT_BYTES:
            asked[1].add(int.from_bytes(proof[NONCE_BYTES:], "big"))
            await stream.write(b"\x01")

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return what peers found, the newest last."""
        return tuple(sorted(self._verdicts.values(), key=lambda one: one.at))

    def _forget(self, now: float) -> None:
        limits = self._limits
        self._verdicts = {at: one for at, one in self._verdicts.items() if now - one.at < limits.reach_memory}
        self._asked_at = {key: at for key, at in self._asked_at.items() if now - at < limits.reach_again}

    def _due(self, now: float) -> list[Neighbour]:
        """Whom to ask now: peers of networks in which nobody has been asked come first."""
        recent = {key for key, _ in self._verdicts if key in self._asked_at}
        lacking = self._limits.reach_peers - len(recent)
        if lacking <= 0:
            return []
        neighbours = self._neighbours()
        asked = {address_range(one.ip) for one in neighbours if one.key in self._asked_at}
        able = [
            one
            for one in neighbours
            if one.key not in self._asked_at
            and one.seconds > SETTLE_SECONDS
            and not ipaddress.ip_address(one.ip).is_loopback
        ]
        chosen: dict[str, Neighbour] = {}
        for one in sorted(able, key=lambda one: address_range(one.ip) in asked):
            chosen.setdefault(address_range(one.ip), one)
        return list(chosen.values())[:lacking]


def read_answer(
    raw: bytes, peer_id: str, proved: set[int], ports: Sequence[int], now: float, *, outside: bool
) -> tuple[Verdict, ...]:
    """Return the verdicts in an answer to a request for `ports`; none if the peer would not dial.

    `outside` says that we see the peer at an address of the Internet: from there nobody sees us at a private address,
    nor from a private one at one of the Internet. A port that the peer says it reached without proof gives none.
    Raises `ValueError` for what is no answer.
    """
    if len(raw) > ANSWER_BYTES:
        raise ValueError("it is too long")
    try:
        said = json.loads(raw)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(said, dict):
        raise ValueError("it is no object")
    if "refused" in said:
        return ()
    kind, ip = _seen(said.get("seen"))
    if ipaddress.ip_address(ip).is_global != outside:
        raise ValueError("it sees us at an address that cannot be seen from where it is")
    tried = said.get("ports")
    if not isinstance(tried, list) or len(tried) > len(ports):
        raise ValueError("it has no list of ports")
    found = []
    for one in tried:
        # 4001.0 equals 4001, and would be told to others as it is written.
        if not isinstance(one, list) or len(one) != 2 or type(one[0]) is not int or one[0] not in ports:
            raise ValueError("a port was not asked for")
        port, why = one
        if why == REACHED and port not in proved:
            continue
        text = "" if port in proved else "".join(c for c in str(why) if c.isprintable())[:WHY_CHARACTERS]
        found.append(Verdict(peer_id, f"/{kind}/{ip}/tcp/{port}", port in proved, text, now))
    return tuple(found)


def _seen(text: object) -> tuple[str, str]:
    """The IP address in `/ip4/...` or `/ip6/...`. Raises `ValueError`."""
    parts = str(text)[:64].split("/")
    if len(parts) != 3 or parts[1] not in ("ip4", "ip6"):
        raise ValueError("it does not say where the peer sees us")
    ip = ipaddress.ip_address(parts[2])
    if f"ip{ip.version}" != parts[1] or ip.is_unspecified or ip.is_multicast:
        raise ValueError("it says an address that nobody can have")
    return parts[1], str(ip)


def innermost(error: BaseException) -> str:
    """Return the sentence of the exception that started it: the library wraps "connection refused" three times."""
    while (cause := error.__cause__) is not None or isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else cause  # type: ignore[assignment]
    return str(error) or type(error).__name__


def advertised_now(
    listening: Sequence[str], found: Assessment, relayed: Sequence[str], *, internet: bool
) -> tuple[str, ...]:
    """Return the addresses to tell others, of a node that was not told what to announce.

    `listening` are its own, with no wildcards, `relayed` those behind relays, and `internet` says that it has a direct
    connection with the Internet. A private address is told as long as there is none: beyond its NAT nobody can dial
    it, unless a peer did. An address that several peers could not reach, and none could, is not told. Of a node that
    has an address of the Internet itself, no other is told of that kind, whatever peers say that they see.
    """
    hosts = {text: ip for text in listening if (ip := ip_of(encoded(text))) is not None}
    behind = internet and not any(ip.is_global for ip in hosts.values())
    told = {
        text: None
        for text, ip in hosts.items()
        if text in found.confirmed or (text not in found.failed if ip.is_global else not behind)
    }
    own = {ip for ip in hosts.values() if ip.is_global}
    kinds = {ip.version for ip in own}
    for place in found.confirmed:
        seen = ipaddress.ip_address(place.split("/")[2])
        if not seen.is_global or seen in own or seen.version not in kinds:
            told[place] = None
    if found.access is not Access.PUBLIC:
        told.update(dict.fromkeys(relayed))
    return tuple(told)
