"""One node's view of a round, as the vectors of admission tell it: what it knows, what comes, what is kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from koii_p2p.records.envelope import Verified
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Presence
from koii_p2p.rounds.terms import TaskTerms
from round_vectors.world import (
    BLOCKHASH,
    GENESIS,
    HARDENED,
    NAMES,
    ROUND,
    SEVEN,
    SIGNERS,
    START,
    WITNESSES,
    Json,
    VectorFile,
    draw_json,
    drawn_for,
    roster_json,
)

REJECTED: Final = frozenset(
    {
        "bad_attempt",
        "bad_evidence",
        "bad_signature",
        "empty_ballot",
        "not_assigned",
        "not_in_roster",
        "not_played",
        "own_submission",
        "seal_broken",
        "slot_outside_window",
        "truncated",
    }
)
"""Reasons that are counted against the sender; all others cost nothing."""

PARKED: Final = frozenset(
    {"early", "roster_unknown", "beacon_unknown", "ballot_unknown", "submission_unknown"}
)
"""Reasons with which the same bytes are kept, to be judged again."""


class Scene:
    """One node's view of round 3: what comes, what becomes of it, and what is kept in the end."""

    def __init__(
        self,
        file: VectorFile,
        name: str,
        why: str,
        terms: TaskTerms = HARDENED,
        knows: Iterable[str] = ("roster", "beacon"),
    ) -> None:
        self.terms, self.file = terms, file
        self.draw = drawn_for(terms, SEVEN)
        self._steps: list[Json] = []
        self._held: dict[str, bool] = {}
        self._parked: list[str] = []
        self._conflicts: list[str] = []
        self._presences: dict[bytes, str] = {}
        self._after: Json = {}
        file.share("rosters", "seven", roster_json(SEVEN))
        file.case(
            name,
            why,
            terms=file.terms(terms),
            roster="seven",
            knows=list(knows),
            steps=self._steps,
            after=self._after,
        )
        self._note()

    def due(self, author: int) -> tuple[SecretKey, ...]:
        """Who is drawn for an author, in the order drawn; the draw is written into the file."""
        key = SIGNERS[author].public_key
        self.file.share("draws", f"{self.terms.name}: {NAMES[key]}", draw_json(self.draw, key))
        by_key = {signer.public_key: signer for signer in SIGNERS}
        return tuple(by_key[auditor] for auditor in self.draw.auditors_of(key))

    def idle(self, author: int) -> SecretKey:
        """The first staker who is not drawn for this author."""
        due = self.due(author)
        return next(one for place, one in enumerate(SIGNERS[:7]) if place != author and one not in due)

    def gets(
        self,
        name: str,
        record: Verified | bytes,
        offset: int,
        verdict: str = "accept",
        source: str = "gossip",
        replaces: str = "",
    ) -> Scene:
        """A record comes. `verdict`: "accept", "accept late" (not in time), or the reason of a refusal."""
        raw = record if isinstance(record, bytes) else record.raw
        step: Json = {
            "offset": offset,
            "record": self.file.share("records", name, raw.hex()),
            "source": source,
        }
        if verdict.startswith("accept"):
            step |= {"expect": "accept", "timely": verdict == "accept"}
            presence = not isinstance(record, bytes) and isinstance(record.statement.body, Presence)
            if presence:
                self._presences[record.author] = name  # type: ignore[union-attr]
            else:
                # Of two pieces of evidence, that one of them came in time stays true.
                self._held[name] = verdict == "accept" or self._held.pop(replaces, False)
                self._held.pop(replaces, None)
        else:
            step |= {"expect": "reject" if verdict in REJECTED else "ignore", "reason": verdict}
            step["parked"] = verdict in PARKED
            if verdict in PARKED:
                self._parked.append(name)
            if verdict == "equivocation":
                self._conflicts.append(name)
        self._steps.append(step)
        self._note()
        return self

    def learns(self, what: str) -> Scene:
        """The node reads the roster, or the blockhash that the beacon is made of."""
        self._steps.append({"offset": self._steps[-1]["offset"], "learn": what})
        return self

    def again(self, offset: int, *admitted: str, late: Iterable[str] = ()) -> Scene:
        """What is parked is judged again; these are admitted now, `late` among them not in time."""
        self._steps.append({"offset": offset, "judge_parked": True, "admitted": sorted(admitted)})
        for name in admitted:
            self._parked.remove(name)
            self._held[name] = name not in late
        self._note()
        return self

    def _note(self) -> None:
        # Cases are written by what belongs together; slots only go forward.
        self._steps.sort(key=lambda step: int(str(step["offset"])))
        self._after |= {
            "held": sorted(self._held),
            "timely": sorted(name for name, timely in self._held.items() if timely),
            "parked": sorted(self._parked),
            "conflicts": sorted(self._conflicts),
            "presences": sorted(self._presences.values()),
        }


def named(signer: SecretKey) -> str:
    """The name of a signer's key."""
    return NAMES[signer.public_key]


def file_about(about: str) -> VectorFile:
    file = VectorFile(about)
    file.plain |= {"genesis": GENESIS.hex(), "blockhash": BLOCKHASH.hex(), "round": ROUND, "start": START}
    file.name_keys(one.public_key for one in (*SIGNERS[:8], *WITNESSES))
    return file


def broken(record: Verified) -> bytes:
    """The record with another signature."""
    return record.raw[:-1] + bytes((record.raw[-1] ^ 1,))
