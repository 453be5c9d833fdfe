"""The records of a round that a commitment is about: sorted into sections, freed of what changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Ballot, BallotEntry, BallotReveal, Challenge, Kind, Verdict
from koii_p2p.records.seals import opens
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.eligibility import (
    DRAWN,
    FULL_AUDIT,
    author_fault,
    challenge_fault,
    place_fault,
    votes_fault,
)
from koii_p2p.rounds.offences import offender_of
from koii_p2p.rounds.reasons import Reason
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.tally import Cast
from koii_p2p.rounds.terms import TaskTerms

SECTIONS: Final = ("submissions", "ballots", "reveals", "full_ballots", "challenges", "evidence")
"""Names of the sections in the order of the bundle."""

COMMITTED_KINDS: Final = frozenset(
    {Kind.SUBMISSION, Kind.BALLOT, Kind.BALLOT_REVEAL, Kind.CHALLENGE, Kind.EQUIVOCATION}
)
"""Kinds of records that a commitment is about."""


_VOTING: Final = (Ballot, BallotReveal)


class MisplacedRecord(ValueError):
    """A record that no commitment to this round may include, or two where there may be one."""


@dataclass(frozen=True, slots=True)
class RoundRecords:
    """Records by author, each section sorted; challenges by (author, seq), evidence by whom it convicts."""

    submissions: Mapping[bytes, Verified] = field(default_factory=dict)
    ballots: Mapping[bytes, Verified] = field(default_factory=dict)
    reveals: Mapping[bytes, Verified] = field(default_factory=dict)
    full_ballots: Mapping[bytes, Verified] = field(default_factory=dict)
    challenges: Mapping[tuple[bytes, int], Verified] = field(default_factory=dict)
    evidence: Mapping[bytes, Verified] = field(default_factory=dict)

    @property
    def sections(self) -> dict[str, Mapping[bytes, Verified] | Mapping[tuple[bytes, int], Verified]]:
        """The sections by name, in the order of the bundle."""
        return {name: getattr(self, name) for name in SECTIONS}

    @property
    def authors(self) -> dict[bytes, bytes]:
        """Author by id of every submission."""
        return {record.id: author for author, record in self.submissions.items()}

    def votes_of(self, auditor: bytes) -> tuple[BallotEntry, ...]:
        """First votes of one auditor: open, or revealed; empty without any."""
        record = self.reveals.get(auditor) or self.ballots.get(auditor)
        return () if record is None else entries_of(record)


def section_of(record: Verified) -> str:
    """Name of the section that a record of a committed kind belongs to."""
    match record.kind:
        case Kind.SUBMISSION:
            return "submissions"
        case Kind.BALLOT:
            return "ballots" if record.statement.seq == DRAWN else "full_ballots"
        case Kind.BALLOT_REVEAL:
            return "reveals"
        case Kind.CHALLENGE:
            return "challenges"
        case Kind.EQUIVOCATION:
            return "evidence"
        case _:
            raise MisplacedRecord(
                f"record {record.id.hex()} is a {record.kind.name}; no commitment has those"
            )


def held_records(held: Iterable[Verified], evidence: Mapping[bytes, Verified]) -> RoundRecords:
    """Records that admission let in: one for each place. `evidence` is by whom it convicts; other kinds are passed."""
    found: dict[str, dict[bytes, Verified]] = {name: {} for name in SECTIONS}
    challenges: dict[tuple[bytes, int], Verified] = {}
    for record in held:
        if record.kind is Kind.CHALLENGE:
            challenges[record.author, record.statement.seq] = record
        elif record.kind in COMMITTED_KINDS:
            found[section_of(record)][record.author] = record
    found["evidence"] = dict(evidence)
    return _assembled(found, challenges)


def _assembled(
    found: Mapping[str, Mapping[bytes, Verified]], challenges: Mapping[tuple[bytes, int], Verified]
) -> RoundRecords:
    return RoundRecords(
        submissions=_sorted(found["submissions"]),
        ballots=_sorted(found["ballots"]),
        reveals=_sorted(found["reveals"]),
        full_ballots=_sorted(found["full_ballots"]),
        challenges=dict(sorted(challenges.items())),
        evidence=_sorted(found["evidence"]),
    )


def entries_of(record: Verified) -> tuple[BallotEntry, ...]:
    """The votes that can be read in a record; none in a sealed ballot."""
    body = record.statement.body
    return body.entries if isinstance(body, _VOTING) else ()


def sort_records(
    records: Iterable[Verified], terms: TaskTerms, roster: Roster, genesis: bytes
) -> RoundRecords:
    """Sort records of the round of `roster` into sections. Raises MisplacedRecord.

    Of several pieces of evidence against one key, the one with the smallest id is taken, wherever it came from.
    """
    found: dict[str, dict[bytes, Verified]] = {name: {} for name in SECTIONS}
    challenges: dict[tuple[bytes, int], Verified] = {}
    for record in records:
        name = section_of(record)
        fault = place_fault(record.statement, terms) or author_fault(
            record.statement, record.author, roster, terms.audit
        )
        if fault is not None or record.round != roster.round:
            why = fault.value if fault else f"of round {record.round}, not {roster.round}"
            raise MisplacedRecord(f"record {record.id.hex()} of {record.author.hex()}: {why}")
        if name == "evidence":
            offender = offender_of(record, genesis)
            if offender is None or offender not in roster:
                raise MisplacedRecord(f"record {record.id.hex()}: {Reason.BAD_EVIDENCE.value}")
            known = found[name].setdefault(offender, record)
            found[name][offender] = min(known, record, key=lambda evidence: evidence.id)
            continue
        held = (
            challenges.setdefault((record.author, record.statement.seq), record)
            if name == "challenges"
            else found[name].setdefault(record.author, record)
        )
        if held.id != record.id:
            raise MisplacedRecord(f"two different {record.kind.name} records of {record.author.hex()}")
    return _assembled(found, challenges)


def select(records: RoundRecords, terms: TaskTerms, assignment: AuditAssignment) -> RoundRecords:
    """Leave out what can change nothing, so that one set of facts has one bundle: see `select_cast`."""
    return select_cast(records, terms, assignment)[0]


def select_cast(
    records: RoundRecords, terms: TaskTerms, assignment: AuditAssignment
) -> tuple[RoundRecords, Cast]:
    """The records that can change something, and what they say: `cast_in` of them.

    Left out are ballots with faulty votes or with none that counts, sealed ballots that were not revealed,
    reveals without their ballot, challenges of submissions that are not there, votes in full audits that nobody
    opened, and ballots of keys without stake beyond the task's witness seats. Also what was said by those whom the
    round convicts, but for their submissions: of two ballots of one auditor, no leader gets to choose.
    """
    authors = records.authors
    records = _unconvicted(records)
    reveals = {
        auditor: record
        for auditor, record in records.reveals.items()
        if auditor in records.ballots
        and opens_ballot(record, records.ballots[auditor], terms.task, record.round)
    }
    ballots = {
        auditor: record
        for auditor, record in records.ballots.items()
        if not terms.audit.sealed or auditor in reveals
    }
    readable = replace(records, ballots=ballots, reveals=reveals)
    voters = {
        auditor
        for auditor in _seated(ballots, assignment)
        if votes_fault(readable.votes_of(auditor), auditor, DRAWN, authors, assignment) is None
    }
    challenges = {
        place: record
        for place, record in records.challenges.items()
        if _challenge_fault(record, authors, terms) is None
    }
    chosen = replace(
        records,
        ballots={auditor: record for auditor, record in ballots.items() if auditor in voters},
        reveals={auditor: record for auditor, record in reveals.items() if auditor in voters},
        challenges=challenges,
    )
    cast = _cast(chosen, authors)
    under_dispute = _disputed(cast, authors, assignment)
    full_ballots = {
        auditor: record
        for auditor, record in records.full_ballots.items()
        if votes_fault(entries_of(record), auditor, FULL_AUDIT, under_dispute, assignment) is None
    }
    return replace(chosen, full_ballots=full_ballots), replace(cast, full=_full_votes(full_ballots, authors))


def _unconvicted(records: RoundRecords) -> RoundRecords:
    convicted = records.evidence.keys()
    if not convicted:
        return records
    return replace(
        records,
        ballots={key: record for key, record in records.ballots.items() if key not in convicted},
        reveals={key: record for key, record in records.reveals.items() if key not in convicted},
        full_ballots={key: record for key, record in records.full_ballots.items() if key not in convicted},
        challenges={
            place: record for place, record in records.challenges.items() if place[0] not in convicted
        },
    )


def disputed(records: RoundRecords, assignment: AuditAssignment) -> dict[bytes, bytes]:
    """Authors by submission id of what a full audit was opened for: accused by a staker, or owned up to."""
    authors = records.authors
    return _disputed(_cast(records, authors), authors, assignment)


def _disputed(cast: Cast, authors: Mapping[bytes, bytes], assignment: AuditAssignment) -> dict[bytes, bytes]:
    return {
        record_id: author
        for record_id, author in authors.items()
        if author in cast.canaries or any(key in assignment.roster for key in cast.accusers(author))
    }


def cast_in(records: RoundRecords) -> Cast:
    """What the records of a round say, as `tally` counts it. Votes on submissions that are not there are dropped."""
    authors = records.authors
    return replace(_cast(records, authors), full=_full_votes(records.full_ballots, authors))


def _cast(records: RoundRecords, authors: Mapping[bytes, bytes]) -> Cast:
    """What was said before any full audit."""
    challengers: dict[bytes, set[bytes]] = {}
    canaries: set[bytes] = set()
    for (challenger, _seq), record in records.challenges.items():
        body = record.statement.body
        author = authors.get(body.submission_id) if isinstance(body, Challenge) else None
        if author == challenger:
            canaries.add(author)
        elif author is not None:
            challengers.setdefault(author, set()).add(challenger)
    first = {auditor: records.votes_of(auditor) for auditor in records.ballots}
    return Cast(_by_author(first, authors), {}, challengers, canaries)


def _full_votes(
    full_ballots: Mapping[bytes, Verified], authors: Mapping[bytes, bytes]
) -> dict[bytes, dict[bytes, Verdict]]:
    return _by_author({auditor: entries_of(record) for auditor, record in full_ballots.items()}, authors)


def _by_author(
    ballots: Mapping[bytes, Iterable[BallotEntry]], authors: Mapping[bytes, bytes]
) -> dict[bytes, dict[bytes, Verdict]]:
    votes: dict[bytes, dict[bytes, Verdict]] = {}
    for auditor, entries in ballots.items():
        for entry in entries:
            author = authors.get(entry.submission_id)
            if author is None:
                continue
            cast = votes.get(author)
            if cast is None:
                votes[author] = {auditor: entry.verdict}
            else:
                cast[auditor] = entry.verdict
    return votes


def _seated(auditors: Collection[bytes], assignment: AuditAssignment) -> tuple[bytes, ...]:
    """The stakers among these auditors, and as many keys without stake as there are seats."""
    stakers = [auditor for auditor in auditors if auditor in assignment.roster]
    return (*stakers, *assignment.seated(auditor for auditor in auditors if auditor not in assignment.roster))


def opens_ballot(reveal: Verified, ballot: Verified, task: bytes, round: int) -> bool:
    """Whether a reveal is what its author sealed in this ballot of a task's round."""
    said, sealed = reveal.statement.body, ballot.statement.body
    return (
        isinstance(said, BallotReveal)
        and isinstance(sealed, Ballot)
        and sealed.seal is not None
        and opens(said, sealed.seal, task, round, reveal.author)
    )


def _challenge_fault(record: Verified, authors: Mapping[bytes, bytes], terms: TaskTerms) -> Reason | None:
    body = record.statement.body
    if not isinstance(body, Challenge):
        return Reason.NOT_PLAYED
    return challenge_fault(body, record.author, record.statement.slot, authors, terms, record.round)


def _sorted(records: Mapping[bytes, Verified]) -> dict[bytes, Verified]:
    return {key: records[key] for key in sorted(records)}
