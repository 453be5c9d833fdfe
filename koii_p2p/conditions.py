"""What the links between the nodes of one machine are made to be like: latency, loss, bandwidth, partitions.

One JSON file says it for a whole network; every node that was started with it watches it and finds its own part by
its key. So there is one place to write, and no node can be told something else than its neighbour.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from koii_p2p.errors import ConfigurationError

HANG: Final = "hang"
RESET: Final = "reset"
CUTS: Final = (HANG, RESET)
"""What becomes of connections across a cut: nothing passes until it heals, or they are reset and refused."""

MOST_FILE_BYTES: Final = 256 * 1024
_MOST_MS: Final = 10_000
_MOST_LOSS: Final = 0.5
_MOST_KIB: Final = 1_000_000
_MOST_KEYS: Final = 2048
_MOST_KEY_CHARACTERS: Final = 44


def bad(why: str, remedy: str) -> ConfigurationError:
    """What is wrong with conditions."""
    return ConfigurationError("Such network conditions are not possible.", f"{why}.", remedy)


def _whole(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise bad(f"{name} = {value!r} is not a whole number from {low} to {high}", "Choose another value.")


@dataclass(frozen=True, slots=True)
class Link:
    """What one direction of a connection is like. Raises `ConfigurationError` for a value that is not possible.

    What is sent arrives `latency_ms` later, give or take `jitter_ms` (uniform, as netem's), and never out of order.
    `loss` is the share of segments that are lost, each of which holds up what follows until it was sent again.
    `bandwidth_kib` is KiB in a second, of each connection; None is as fast as this machine.
    """

    latency_ms: int = 0
    jitter_ms: int = 0
    loss: float = 0.0
    bandwidth_kib: int | None = None

    def __post_init__(self) -> None:
        _whole("latency_ms", self.latency_ms, 0, _MOST_MS)
        _whole("jitter_ms", self.jitter_ms, 0, _MOST_MS)
        if self.bandwidth_kib is not None:
            _whole("bandwidth_kib", self.bandwidth_kib, 1, _MOST_KIB)
        if type(self.loss) not in (int, float) or not 0 <= self.loss <= _MOST_LOSS:
            raise bad(f"loss = {self.loss!r} is not from 0 to {_MOST_LOSS}", "Write a share, such as 0.01.")
        if self.jitter_ms > self.latency_ms:
            raise bad(
                f"jitter_ms = {self.jitter_ms} is more than latency_ms = {self.latency_ms}",
                "Nothing arrives before it is sent: write a larger latency, or less jitter.",
            )

    def __str__(self) -> str:
        said = []
        if self.latency_ms:
            said.append(f"latency {self.latency_ms} ms" + (f" ± {self.jitter_ms}" if self.jitter_ms else ""))
        if self.loss:
            said.append(f"loss {self.loss}")
        if self.bandwidth_kib is not None:
            said.append(f"{self.bandwidth_kib} KiB/s")
        return ", ".join(said) or "as fast as this machine"


PLAIN: Final = Link()


@dataclass(frozen=True, slots=True)
class Conditions:
    """The links of a network. Keys are staking keys in base58.

    `link` is that of every two nodes, unless one of them is in `peers`: a node there is far away from everybody. Nodes
    of two different `groups` are cut off from each other, in the way of `cut`; who is in no group reaches everybody.
    Chances are drawn from `seed`. Raises `ConfigurationError`.
    """

    link: Link = PLAIN
    peers: Mapping[str, Link] = field(default_factory=dict)
    groups: tuple[frozenset[str], ...] = ()
    cut: str = HANG
    seed: int = 0

    def __post_init__(self) -> None:
        _whole("seed", self.seed, 0, 2**64 - 1)
        if self.cut not in CUTS:
            raise bad(f"cut = {self.cut!r} does not exist", f"There are: {', '.join(CUTS)}.")
        named = [key for group in self.groups for key in group]
        if len(named) != len(set(named)):
            raise bad("A key is in two groups", "A node is on one side of a cut.")
        keys = [*named, *self.peers]
        if len(keys) > _MOST_KEYS or any(not 0 < len(key) <= _MOST_KEY_CHARACTERS for key in keys):
            raise bad("Its keys are too many, or no keys", f"Name at most {_MOST_KEYS} keys in base58.")

    def between(self, own: str, other: str | None) -> Link:
        """The link of two nodes; the other is None as long as it has not said who it is."""
        if other is not None and other in self.peers:
            return self.peers[other]
        return self.peers.get(own, self.link)

    def separates(self, own: str, other: str | None) -> bool:
        """Whether two nodes are cut off from each other."""
        mine = next((group for group in self.groups if own in group), None)
        return mine is not None and other not in mine and any(other in group for group in self.groups)


def encode_conditions(conditions: Conditions) -> bytes:
    """The JSON that `decode_conditions` reads."""
    value = {
        "link": asdict(conditions.link),
        "peers": {key: asdict(link) for key, link in conditions.peers.items()},
        "groups": [sorted(group) for group in conditions.groups],
        "cut": conditions.cut,
        "seed": conditions.seed,
    }
    return json.dumps(value, indent=1).encode()


def decode_conditions(data: bytes) -> Conditions:
    """Read conditions from JSON; what is left out is as if nothing were wrong. Raises `ConfigurationError`."""
    if len(data) > MOST_FILE_BYTES:
        raise bad(f"They take more than {MOST_FILE_BYTES} bytes", "Name the right file.")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad(f"They are not JSON: {error}", "Correct the file.") from error
    values = _object(found, "the file", {one.name for one in fields(Conditions)})
    groups = values.get("groups", [])
    if not isinstance(groups, list) or not all(_are_texts(group) for group in groups):
        raise bad("`groups` is not a list of lists of keys", 'Write it like [["KEY"], ["KEY", "KEY"]].')
    peers = values.get("peers", {})
    if not isinstance(peers, dict):
        raise bad("`peers` is not an object", 'Write it like {"KEY": {"latency_ms": 300}}.')
    return Conditions(
        link=link_of(values.get("link", {})),
        peers={key: link_of(link) for key, link in peers.items()},
        groups=tuple(frozenset(group) for group in groups),
        cut=values.get("cut", HANG),
        seed=values.get("seed", 0),
    )


def read_conditions(file: Path) -> Conditions:
    """Read a file of conditions. Raises `ConfigurationError`."""
    try:
        with file.open("rb") as stream:
            return decode_conditions(stream.read(MOST_FILE_BYTES + 1))
    except OSError as error:
        raise bad(f"The file {file} cannot be read: {error.strerror}", "Name the right file.") from error


def link_of(value: object) -> Link:
    """A link of its named values. Raises `ConfigurationError`."""
    return Link(**_object(value, "a link", {one.name for one in fields(Link)}))


def _object(value: object, what: str, known: Iterable[str]) -> dict[str, Any]:
    names = sorted(known)
    if not isinstance(value, dict):
        raise bad(f"What is said of {what} is not an object", f"Give it some of: {', '.join(names)}.")
    for name in value:
        if name not in names:
            raise bad(f"The setting `{name}` of {what} does not exist", f"There are: {', '.join(names)}.")
    return value


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


@dataclass(frozen=True, slots=True)
class ShapingStatistics:
    """What was done to the connections since the start. `changes` counts how often the conditions were read."""

    conditions: str
    changes: int
    refused_changes: int
    delayed_writes: int
    retransmissions: int
    resets: int
    cut_links: int
    """Connections that are cut now."""
