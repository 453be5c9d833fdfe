"""Checking the records of a bundle one by one: are they signed, in their place, and can each change anything."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from functools import cache
from hashlib import sha256
from typing import Final

from koii_p2p.records.envelope import Envelope, Verified, decode_record, verify
from koii_p2p.records.reasons import RecordError
from koii_p2p.records.schema import Challenge
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.commitment import Bundle, Commitment
from koii_p2p.rounds.eligibility import (
    DRAWN,
    FULL_AUDIT,
    author_fault,
    challenge_fault,
    place_fault,
    votes_fault,
)
from koii_p2p.rounds.findings import FindingCode
from koii_p2p.rounds.offences import offender_of
from koii_p2p.rounds.reasons import Reason
from koii_p2p.rounds.round_records import (
    MisplacedRecord,
    RoundRecords,
    disputed,
    entries_of,
    opens_ballot,
    section_of,
)
from koii_p2p.rounds.terms import TaskTerms

Find = Callable[[FindingCode, str, bytes | None], None]
"""Takes one thing that is wrong: code, sentence, and the key of whom it concerns."""

_VOTES: Final = {
    Reason.EMPTY_BALLOT: FindingCode.BALLOT_EMPTY,
    Reason.NOT_ASSIGNED: FindingCode.BALLOT_NOT_ASSIGNED,
    Reason.SUBMISSION_UNKNOWN: FindingCode.BALLOT_UNKNOWN_SUBMISSION,
}
_FULL_VOTES: Final = _VOTES | {Reason.SUBMISSION_UNKNOWN: FindingCode.BALLOT_UNDISPUTED}
_CHALLENGES: Final = {
    Reason.SUBMISSION_UNKNOWN: FindingCode.CHALLENGE_UNKNOWN_SUBMISSION,
    Reason.OWN_SUBMISSION: FindingCode.CHALLENGE_OWN_SUBMISSION,
}


def check_records(
    bundle: Bundle,
    terms: TaskTerms,
    genesis: bytes,
    round_number: int,
    assignment: AuditAssignment | None,
    commitment: Commitment | None,
    find: Find,
) -> RoundRecords | None:
    """The records of a bundle by section, or None if something is wrong with one of them; says what to `find`.

    A bundle holds what `round_records.sort_records` and `select` leave of the records of a round, sorted; each
    record that they would refuse or leave out is one finding. `assignment` is None where the roster is in doubt:
    whatever needs it is not checked then. `commitment` says which submissions there should be.
    """
    return _BundleCheck(terms, genesis, round_number, assignment, commitment, find).run(bundle)


class _BundleCheck:
    def __init__(
        self,
        terms: TaskTerms,
        genesis: bytes,
        round_number: int,
        assignment: AuditAssignment | None,
        commitment: Commitment | None,
        find: Find,
    ) -> None:
        self._terms = terms
        self._genesis = genesis
        self._round = round_number
        self._assignment = assignment
        self._commitment = commitment
        self._report = find
        self._faulty: set[str] = set()
        # Verifies two signatures, and is asked for to check, to sort and to keep each piece of evidence.
        self._offender_of = cache(lambda record: offender_of(record, genesis))

    def run(self, bundle: Bundle) -> RoundRecords | None:
        records = RoundRecords(
            submissions=self._by_author("submissions", bundle.submissions),
            ballots=self._by_author("ballots", bundle.ballots),
            reveals=self._by_author("reveals", bundle.reveals),
            full_ballots=self._by_author("full_ballots", bundle.full_ballots),
            challenges={
                (record.author, record.statement.seq): record
                for record in self._read("challenges", bundle.challenges, _author_and_seq)
            },
            evidence={
                self._convicted(record): record
                for record in self._read("evidence", bundle.evidence, self._convicted)
            },
        )
        if self._commitment is not None:
            self._match_submissions(records.submissions, self._commitment)
        authors = records.authors
        if self._commitment is not None:
            # What is said of a submission that the commitment names and the bundle lacks is not the speaker's fault.
            authors |= {entry.submission_id: entry.author for entry in self._commitment.outcomes}
        self._check_voices(records)
        readable = self._check_seals(records)
        self._check_challenges(records, authors)
        if self._assignment is not None:
            self._check_ballots(records, readable, authors, self._assignment)
            self._check_full_ballots(records, self._assignment)
        return None if self._faulty else records

    # --- each record alone

    def _by_author(self, section: str, raws: Sequence[bytes]) -> dict[bytes, Verified]:
        return {record.author: record for record in self._read(section, raws, lambda record: record.author)}

    def _read(
        self, section: str, raws: Sequence[bytes], place: Callable[[Verified], bytes]
    ) -> list[Verified]:
        found: list[Verified] = []
        last = b""
        for number, raw in enumerate(raws, 1):
            name = f"{number} of {len(raws)} in {section}"
            try:
                envelope = decode_record(raw)
            except RecordError as error:
                text = f"record {name} (id {sha256(raw).hexdigest()}): {error}"
                self._find(section, FindingCode.RECORD_MALFORMED, text)
                continue
            name = f"{envelope.kind.name.lower()} {name} (of {envelope.author.hex()})"
            record = self._check_record(section, name, envelope)
            if record is None:
                continue
            if place(record) <= last:
                self._find(section, FindingCode.RECORD_ORDER, f"{name} is out of order", record.author)
                continue
            last = place(record)
            found.append(record)
        return found

    def _check_record(self, section: str, name: str, envelope: Envelope) -> Verified | None:
        try:
            record = verify(envelope, self._genesis)
        except RecordError as error:
            self._find(section, FindingCode.RECORD_SIGNATURE, f"{name}: {error}", envelope.author)
            return None
        fault = self._fault(section, record)
        if fault is not None:
            where = f"task {record.statement.task.hex()}, round {record.round}, slot {record.statement.slot}"
            text = f"{name}, {where}, seq {record.statement.seq}: {fault.__doc__}"
            self._find(section, fault, text, record.author)
            return None
        return record

    def _fault(self, section: str, record: Verified) -> FindingCode | None:
        statement, roster = record.statement, self._assignment.roster if self._assignment else None
        try:
            if section_of(record) != section:
                return FindingCode.RECORD_KIND
        except MisplacedRecord:
            return FindingCode.RECORD_KIND
        fault = place_fault(statement, self._terms)
        if fault is Reason.NOT_PLAYED:
            return FindingCode.RECORD_NOT_PLAYED
        if fault is not None or record.round != self._round:
            return FindingCode.RECORD_PLACE
        if roster is not None and author_fault(statement, record.author, roster, self._terms.audit):
            return FindingCode.RECORD_AUTHOR
        if section == "evidence":
            offender = self._offender_of(record)
            if offender is None or (roster is not None and offender not in roster):
                return FindingCode.EVIDENCE_IDLE
        return None

    def _convicted(self, record: Verified) -> bytes:
        return self._offender_of(record) or b""

    # --- the records together

    def _match_submissions(self, submissions: Mapping[bytes, Verified], commitment: Commitment) -> None:
        listed = {entry.author: entry.submission_id for entry in commitment.outcomes}
        all_good = "submissions" not in self._faulty
        for author, submission_id in listed.items():
            record = submissions.get(author)
            if record is not None and record.id != submission_id:
                text = (
                    f"the commitment names {submission_id.hex()} of {author.hex()}, "
                    f"the bundle has {record.id.hex()}"
                )
                self._find("submissions", FindingCode.SUBMISSION_DIFFERS, text, author)
            elif record is None and all_good:
                text = f"no submission of {author.hex()} in the bundle"
                self._find("submissions", FindingCode.SUBMISSION_MISSING, text, author)
        for author in sorted(submissions.keys() - listed.keys()):
            text = f"no outcome for the submission of {author.hex()}"
            self._find("submissions", FindingCode.SUBMISSION_UNLISTED, text, author)

    def _check_seals(self, records: RoundRecords) -> Container[bytes]:
        """Whose votes can be read: everybody's, or where ballots are sealed those of whoever revealed its own."""
        if not self._terms.audit.sealed:
            return records.ballots
        ballots_good, reveals_good = "ballots" not in self._faulty, "reveals" not in self._faulty
        readable = set()
        for auditor, record in records.reveals.items():
            ballot = records.ballots.get(auditor)
            if ballot is None:
                if ballots_good:
                    self._blame("reveals", FindingCode.REVEAL_WITHOUT_BALLOT, record)
            elif opens_ballot(record, ballot, self._terms.task, self._round):
                readable.add(auditor)
            else:
                self._blame("reveals", FindingCode.SEAL_BROKEN, record)
        if reveals_good:
            for auditor, record in records.ballots.items():
                if auditor not in records.reveals:
                    self._blame("ballots", FindingCode.BALLOT_UNREVEALED, record)
        return readable

    def _check_voices(self, records: RoundRecords) -> None:
        for section in ("ballots", "reveals", "full_ballots", "challenges"):
            for record in records.sections[section].values():
                if record.author in records.evidence:
                    self._blame(section, FindingCode.RECORD_OF_CONVICTED, record)

    def _check_challenges(self, records: RoundRecords, authors: Mapping[bytes, bytes]) -> None:
        known = "submissions" not in self._faulty
        for (challenger, _seq), record in records.challenges.items():
            body, slot = record.statement.body, record.statement.slot
            if not isinstance(body, Challenge):
                continue
            fault = challenge_fault(body, challenger, slot, authors, self._terms, self._round)
            if fault is not None and (known or fault is not Reason.SUBMISSION_UNKNOWN):
                self._blame("challenges", _CHALLENGES[fault], record)

    def _check_ballots(
        self,
        records: RoundRecords,
        readable: Container[bytes],
        authors: Mapping[bytes, bytes],
        assignment: AuditAssignment,
    ) -> None:
        known = "submissions" not in self._faulty
        seated = set(assignment.seated(key for key in records.ballots if key not in assignment.roster))
        for auditor, record in records.ballots.items():
            if auditor not in assignment.roster and auditor not in seated:
                self._blame("ballots", FindingCode.BALLOT_WITHOUT_SEAT, record)
            if auditor not in readable:
                continue
            fault = votes_fault(records.votes_of(auditor), auditor, DRAWN, authors, assignment)
            if fault is not None and (known or fault is not Reason.SUBMISSION_UNKNOWN):
                self._blame("ballots", _VOTES[fault], record)

    def _check_full_ballots(self, records: RoundRecords, assignment: AuditAssignment) -> None:
        # Which full audits were open is known only if everything said before them is as it should be.
        known = not self._faulty
        under_dispute = disputed(records, assignment)
        for auditor, record in records.full_ballots.items():
            fault = votes_fault(entries_of(record), auditor, FULL_AUDIT, under_dispute, assignment)
            if fault is not None and (known or fault is not Reason.SUBMISSION_UNKNOWN):
                self._blame("full_ballots", _FULL_VOTES[fault], record)

    # --- findings

    def _blame(self, section: str, code: FindingCode, record: Verified) -> None:
        text = f"{record.kind.name.lower()} {record.id.hex()} of {record.author.hex()}: {code.__doc__}"
        self._find(section, code, text, record.author)

    def _find(self, section: str, code: FindingCode, text: str, subject: bytes | None = None) -> None:
        self._faulty.add(section)
        self._report(code, text, subject)


def _author_and_seq(record: Verified) -> bytes:
    return record.author + record.statement.seq.to_bytes(8, "big")
