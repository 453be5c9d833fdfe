"""What a round leaves behind, by task and round: the commitment, the bundle of its records, the list."""

from __future__ import annotations

from enum import Enum

from koii_p2p.limits import Limits
from koii_p2p.storage.database import Database
from koii_p2p.storage.faults import LimitExceeded
from koii_p2p.storage.round_key import ROUND_KEY_BYTES, keys_before, round_key, rounds_of


class Artifact(Enum):
    """The kinds of artifact. The value of those that K2 vouches for is their name in the HTTP API.

    An opening is what this node's own sealed ballot seals: nobody else is shown it before it is revealed.

    A proposal is stored before its digest is sent to K2, so that nothing can be anchored whose data is lost in a
    crash; it is kept apart, because another leader's may be the one that lands.
    """

    COMMITMENT = "commitment"
    BUNDLE = "bundle"
    LIST = "list"
    PROPOSED_COMMITMENT = "proposed-commitment"
    PROPOSED_BUNDLE = "proposed-bundle"
    PROPOSED_LIST = "proposed-list"
    OPENING = "opening"


class Artifacts:
    """Artifacts on disk, as bytes; whoever reads them checks them. Methods raise `StorageError`."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._table = database.prefixed(b"artifacts/")  # task, round, name -> data
        self._limits = limits

    def put(self, task: bytes, round: int, artifact: Artifact, data: bytes) -> None:
        """Store an artifact durably, in place of the one that was there. Raises `LimitExceeded`."""
        if len(data) > self._limits.artifact_bytes:
            raise LimitExceeded(
                f"The {artifact.value} of round {round} was not stored.",
                f"It has {len(data)} bytes, and {self._limits.artifact_bytes} are allowed.",
                "Ignore it; no honest round is that large.",
            )
        self._table.put(_key(task, round, artifact), data, sync=True)

    def get(self, task: bytes, round: int, artifact: Artifact) -> bytes | None:
        """Return an artifact, or None."""
        return self._table.get(_key(task, round, artifact))

    def of_round(self, task: bytes, round: int) -> frozenset[Artifact]:
        """Tell which artifacts of a round there are, without reading them."""
        keys = self._table.scan(round_key(task, round), values=False)
        return frozenset(Artifact(key[ROUND_KEY_BYTES:].decode()) for key, _ in keys)

    def rounds(self, task: bytes) -> list[int]:
        """Return the rounds of a task that have artifacts, ascending."""
        return list(rounds_of(self._table, task))

    def forget_before(self, task: bytes, round: int) -> int:
        """Remove the artifacts of a task's rounds before `round`; return how many."""
        count = 0
        for keys in keys_before(self._table, task, round):
            self._database.write(self._table.change(key, None) for key in keys)
            count += len(keys)
        return count


def _key(task: bytes, round: int, artifact: Artifact) -> bytes:
    return round_key(task, round) + artifact.value.encode()
