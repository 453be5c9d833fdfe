"""Verifying a receipt against what K2 holds of its round: every signature, digest and path, and what that proves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from koii_p2p.records.envelope import Verified, decode_record, verify
from koii_p2p.records.meanings import Meaning
from koii_p2p.records.reasons import RecordError
from koii_p2p.records.schema import Ballot, Equivocation, Kind, ListVote, Submission
from koii_p2p.rounds import merkle
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.commitment import Commitment, CommitmentError
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.offences import offender_of
from koii_p2p.rounds.receipt import ProvenRecord, Receipt
from koii_p2p.rounds.round_records import SECTIONS, MisplacedRecord, entries_of, section_of

Name = Callable[[bytes], str]
"""How a key is written in sentences."""

Money = Callable[[int], str]
"""How an amount in Roe is written in sentences."""

SHOWN_VALUE = 80
"""Characters of a submission's value that a sentence shows."""


def in_roe(amount: int) -> str:
    """An amount as K2 has it."""
    return f"{amount} Roe"


class ReceiptFault(Meaning):
    """What can be wrong with a receipt. The value is the portable name; `ReceiptFault.X.__doc__` explains it."""

    GENESIS = "genesis", "The receipt is of another chain."
    NOT_ANCHORED = "not_anchored", "K2 has nothing of the receipt's round."
    ATTEMPT = "attempt", "K2 holds another attempt at the round than the receipt is of."
    REJECTED = "rejected", "The attempt that the receipt is of was vetoed: it proves nothing any more."
    COMMITMENT_DIGEST = "commitment_digest", "The commitment does not hash to the digest on K2."
    COMMITMENT_MALFORMED = "commitment_malformed", "The commitment's bytes are not a commitment."
    COMMITMENT_PLACE = "commitment_place", "The commitment is of another task or round."
    LIST_NOT_ANCHORED = (
        "list_not_anchored",
        "The receipt has a leaf of a list, and K2 has no list of the round.",
    )
    LEAF_KEY = "leaf_key", "The leaf is another key's."
    LEAF_PROOF = "leaf_proof", "The leaf's path does not lead to the list root on K2."
    RECORD_MALFORMED = "record_malformed", "Bytes that should be a record are none."
    RECORD_SIGNATURE = "record_signature", "A record is not signed by its author for this chain."
    RECORD_PLACE = "record_place", "A record is of another task, round or section."
    RECORD_AUTHOR = "record_author", "A record is another key's."
    RECORD_PROOF = "record_proof", "A record's path does not lead to the committed root of its section."
    RECORD_TWICE = "record_twice", "A record is in the receipt twice."
    SUBMISSION_DIFFERS = "submission_differs", "The submission is not the one that the commitment names."
    EVIDENCE_IDLE = "evidence_idle", "The evidence does not convict the key."
    ROSTER = "roster", "The roster's entries do not hash to the committed root."
    VOTE_MALFORMED = "vote_malformed", "Bytes that should be a list vote are none."
    VOTE_SIGNATURE = "vote_signature", "A list vote is not signed by its author for this chain."
    VOTE_PLACE = "vote_place", "A list vote is of another task, round or attempt."
    VOTE_LIST = "vote_list", "A list vote does not agree with the list on K2."
    VOTE_AUTHOR = "vote_author", "A list vote's author is not in the roster, or votes twice."


@dataclass(frozen=True, slots=True)
class ReceiptFinding:
    """One thing that is wrong: its kind and a sentence."""

    fault: ReceiptFault
    text: str


@dataclass(frozen=True, slots=True)
class ReceiptReport:
    """What a receipt proves, in sentences; nothing if anything is wrong with it."""

    findings: tuple[ReceiptFinding, ...]
    proves: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def verify_receipt(
    receipt: Receipt,
    anchored: AnchoredRound | None,
    genesis: bytes | None = None,
    *,
    name: Name = bytes.hex,
    money: Money = in_roe,
) -> ReceiptReport:
    """Check a receipt against `anchored`, what K2 holds of its round; None if K2 has nothing of it.

    `genesis` is that of the chain `anchored` was read from; None takes the receipt's own word, which signatures then
    are checked for. Never raises for anything that decodes as a receipt. Linear in its size. `name` writes keys,
    `money` amounts.
    """
    return _Check(receipt, anchored, genesis, name, money).run()


class _Check:
    def __init__(
        self,
        receipt: Receipt,
        anchored: AnchoredRound | None,
        genesis: bytes | None,
        name: Name,
        money: Money,
    ) -> None:
        self._receipt = receipt
        self._anchored = anchored
        self._genesis = genesis
        self._name = name
        self._money = money
        self._findings: list[ReceiptFinding] = []
        self._proves: list[str] = []

    def run(self) -> ReceiptReport:
        receipt, anchored = self._receipt, self._anchored
        if self._genesis is not None and self._genesis != receipt.genesis:
            text = (
                f"the receipt is of the chain {self._name(receipt.genesis)}, not {self._name(self._genesis)}"
            )
            self._find(ReceiptFault.GENESIS, text)
        if anchored is None or anchored.round != receipt.round:
            self._find(ReceiptFault.NOT_ANCHORED, f"round {receipt.round}")
            return self._report()
        if anchored.attempt != receipt.attempt:
            text = f"K2 holds attempt {anchored.attempt}, the receipt is of attempt {receipt.attempt}"
            self._find(ReceiptFault.ATTEMPT, text)
        elif anchored.rejected:
            self._find(
                ReceiptFault.REJECTED,
                f"attempt {anchored.attempt} was vetoed by {self._money(anchored.veto_stake)}",
            )
        commitment = self._read_commitment(anchored)
        if commitment is not None:
            self._check_records(commitment)
            self._say_standing(commitment)
        self._check_leaf(anchored)
        if commitment is not None:
            self._check_votes(commitment, anchored)
        return self._report()

    # --- commitment

    def _read_commitment(self, anchored: AnchoredRound) -> Commitment | None:
        receipt = self._receipt
        digest = sha256(receipt.commitment).digest()
        if digest != anchored.commitment:
            text = f"it hashes to {digest.hex()}, K2 has {anchored.commitment.hex()}"
            self._find(ReceiptFault.COMMITMENT_DIGEST, text)
        try:
            commitment = Commitment.decode(receipt.commitment)
        except CommitmentError as error:
            self._find(ReceiptFault.COMMITMENT_MALFORMED, str(error))
            return None
        if commitment.task != receipt.task or commitment.round != receipt.round:
            text = f"it is of round {commitment.round} of task {self._name(commitment.task)}"
            self._find(ReceiptFault.COMMITMENT_PLACE, text)
        self._say(
            f"{self._name(anchored.commitment_by)} anchored the commitment {digest.hex()} to round {receipt.round} of "
            f"task {self._name(receipt.task)} in slot {anchored.commitment_slot}."
        )
        return commitment

    def _say_standing(self, commitment: Commitment) -> None:
        key = self._name(self._receipt.key)
        outcome = commitment.outcome_of.get(self._receipt.key)
        status = dict(commitment.auditors).get(self._receipt.key)
        if outcome is not None:
            self._say(f"The outcome of the work of {key} in this round is {outcome.name}.")
        else:
            self._say(f"{key} has no work in this commitment.")
        if status is not None:
            self._say(f"As an auditor of this round, {key} counts as {status.name}.")

    # --- records

    def _check_records(self, commitment: Commitment) -> None:
        seen: set[bytes] = set()
        for proven in self._receipt.records:
            if proven.raw in seen:
                self._find(ReceiptFault.RECORD_TWICE, f"{proven.section}: {sha256(proven.raw).hexdigest()}")
                continue
            seen.add(proven.raw)
            record = self._read_record(
                proven.raw, ReceiptFault.RECORD_MALFORMED, ReceiptFault.RECORD_SIGNATURE, proven.section
            )
            if record is not None and self._belongs(record, proven, commitment):
                self._say_record(record, commitment)

    def _read_record(
        self, raw: bytes, malformed: ReceiptFault, unsigned: ReceiptFault, where: str
    ) -> Verified | None:
        try:
            envelope = decode_record(raw)
        except RecordError as error:
            self._find(malformed, f"{where}: {error}")
            return None
        try:
            return verify(envelope, self._receipt.genesis)
        except RecordError as error:
            self._find(unsigned, f"{where}, record {envelope.id.hex()}: {error}")
            return None

    def _belongs(self, record: Verified, proven: ProvenRecord, commitment: Commitment) -> bool:
        receipt, name = self._receipt, f"{proven.section}, record {record.id.hex()}"
        before = len(self._findings)
        try:
            in_place = section_of(record) == proven.section
        except MisplacedRecord:
            in_place = False
        if not in_place or record.statement.task != receipt.task or record.round != receipt.round:
            self._find(ReceiptFault.RECORD_PLACE, name)
        if proven.section == "evidence":
            if offender_of(record, receipt.genesis) != receipt.key:
                self._find(ReceiptFault.EVIDENCE_IDLE, name)
        elif record.author != receipt.key:
            self._find(ReceiptFault.RECORD_AUTHOR, f"{name} is of {self._name(record.author)}")
        if not merkle.verify(commitment.roots[SECTIONS.index(proven.section)], proven.raw, proven.proof):
            self._find(ReceiptFault.RECORD_PROOF, name)
        if proven.section == "submissions":
            named = {entry.author: entry.submission_id for entry in commitment.outcomes}
            if named.get(receipt.key) != record.id:
                self._find(ReceiptFault.SUBMISSION_DIFFERS, name)
        return len(self._findings) == before

    def _say_record(self, record: Verified, commitment: Commitment) -> None:
        key, slot, body = self._name(self._receipt.key), record.statement.slot, record.statement.body
        match body:
            case Submission(value=value):
                text = value if isinstance(value, str) else f"0x{value.hex()}"
                shown = text if len(text) <= SHOWN_VALUE else f"{text[: SHOWN_VALUE - 1]}…"
                self._say(f"{key} handed in {shown!r} in slot {slot} (record {record.id.hex()}).")
            case Equivocation():
                first, second = sha256(body.first).hexdigest(), sha256(body.second).hexdigest()
                self._say(f"{key} signed two different records for one place: {first} and {second}.")
            case Ballot(seal=bytes()):
                self._say(f"{key} sealed its votes in slot {slot} (record {record.id.hex()}).")
            case _ if record.kind is Kind.CHALLENGE:
                self._say(f"{key} called for a full audit in slot {slot} (record {record.id.hex()}).")
            case _:
                authors = {entry.submission_id: entry.author for entry in commitment.outcomes}
                votes = ", ".join(
                    f"{entry.verdict.name} on the work of "
                    f"{self._name(authors.get(entry.submission_id, entry.submission_id))}"
                    for entry in entries_of(record)
                )
                self._say(f"{key} voted in slot {slot} (record {record.id.hex()}): {votes}.")

    # --- list

    def _check_leaf(self, anchored: AnchoredRound) -> None:
        receipt, proven = self._receipt, self._receipt.leaf
        if proven is None:
            return
        if anchored.list_root is None:
            self._find(ReceiptFault.LIST_NOT_ANCHORED, f"round {receipt.round}, attempt {anchored.attempt}")
            return
        leaf = Leaf.decode(proven.leaf)
        if leaf.staker != receipt.key:
            self._find(ReceiptFault.LEAF_KEY, f"it is of {self._name(leaf.staker)}")
        if not merkle.verify(anchored.list_root, proven.leaf, proven.proof):
            self._find(ReceiptFault.LEAF_PROOF, f"K2 has the root {anchored.list_root.hex()}")
        self._say(
            f"Up to round {receipt.round}, the anchored list gives {self._name(receipt.key)} "
            f"{self._money(leaf.reward_total)} and takes {self._money(leaf.slash_total)} from it, in total."
        )

    # --- certificate

    def _check_votes(self, commitment: Commitment, anchored: AnchoredRound) -> None:
        receipt = self._receipt
        if not receipt.votes and not receipt.roster:
            return
        # An entry begins with its key and stake (`RosterEntry.encode`).
        stakes = {entry[:32]: int.from_bytes(entry[32:40], "little") for entry in receipt.roster}
        if merkle.root(receipt.roster) != commitment.roster_root or len(stakes) != len(receipt.roster):
            self._find(ReceiptFault.ROSTER, f"the commitment has {commitment.roster_root.hex()}")
            return
        agreed: dict[bytes, int] = {}
        for raw in receipt.votes:
            record = self._read_record(
                raw, ReceiptFault.VOTE_MALFORMED, ReceiptFault.VOTE_SIGNATURE, "list votes"
            )
            if record is None:
                continue
            if record.author not in stakes or record.author in agreed:
                self._find(ReceiptFault.VOTE_AUTHOR, self._name(record.author))
            elif self._agrees(record, anchored):
                agreed[record.author] = stakes[record.author]
        self._say(
            f"{len(agreed)} of {len(stakes)} stakers, with {self._money(sum(agreed.values()))} of "
            f"{self._money(sum(stakes.values()))} of the round's stake, signed that they agree with this list."
        )

    def _agrees(self, record: Verified, anchored: AnchoredRound) -> bool:
        receipt, statement, body = self._receipt, record.statement, record.statement.body
        if not isinstance(body, ListVote):
            self._find(ReceiptFault.VOTE_MALFORMED, f"record {record.id.hex()} is a {record.kind.name}")
            return False
        place = (statement.task, statement.round, statement.seq)
        if place != (receipt.task, receipt.round, receipt.attempt):
            self._find(ReceiptFault.VOTE_PLACE, f"that of {self._name(record.author)}")
            return False
        if not body.agree or body.root != anchored.list_root:
            self._find(ReceiptFault.VOTE_LIST, f"that of {self._name(record.author)}")
            return False
        return True

    # --- findings

    def _report(self) -> ReceiptReport:
        return ReceiptReport(tuple(self._findings), () if self._findings else tuple(self._proves))

    def _find(self, fault: ReceiptFault, text: str) -> None:
        self._findings.append(ReceiptFinding(fault, f"{fault.__doc__} ({text})"))

    def _say(self, sentence: str) -> None:
        self._proves.append(sentence)
