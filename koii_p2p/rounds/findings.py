"""What can be wrong with a round, each with a name of its own."""

from __future__ import annotations

from dataclasses import dataclass

from koii_p2p.records.meanings import Meaning


class FindingCode(Meaning):
    """What kind of thing is wrong. The value is the portable name; `FindingCode.X.__doc__` explains it."""

    COMMITMENT_DIGEST = "commitment_digest", "The commitment's bytes do not hash to the digest on the chain."
    COMMITMENT_MALFORMED = "commitment_malformed", "The commitment's bytes are not a commitment."
    COMMITMENT_TASK = "commitment_task", "The commitment names another task."
    COMMITMENT_ROUND = "commitment_round", "The commitment names another round."
    PREVIOUS = "previous", "The commitment does not follow the one anchored before it."
    BEACON = "beacon", "The commitment's beacon does not follow from the chain's blockhash."
    ROSTER = "roster", "The commitment was made with other stakes than the chain has."
    BUNDLE_CID = "bundle_cid", "The bundle's bytes are not those that the commitment names."
    BUNDLE_MALFORMED = "bundle_malformed", "The bundle's bytes are not a bundle."
    RECORD_MALFORMED = "record_malformed", "Bytes in the bundle are not a record."
    RECORD_SIGNATURE = "record_signature", "A record in the bundle is not signed by its author."
    RECORD_KIND = "record_kind", "A record stands in a section of another kind."
    RECORD_PLACE = (
        "record_place",
        "A record is of another task, round or stage, or its slot is outside its window.",
    )
    RECORD_NOT_PLAYED = "record_not_played", "A form of record that the task's audit rules do not know."
    RECORD_AUTHOR = "record_author", "A record's author is not in the roster."
    RECORD_ORDER = "record_order", "Records are not sorted, or there are two where there may be one."
    SUBMISSION_DIFFERS = "submission_differs", "The commitment names another submission of this author."
    SUBMISSION_MISSING = "submission_missing", "The bundle lacks a submission that the commitment names."
    SUBMISSION_UNLISTED = "submission_unlisted", "The commitment says nothing of a submission in the bundle."
    BALLOT_EMPTY = "ballot_empty", "A ballot has no votes."
    BALLOT_NOT_ASSIGNED = (
        "ballot_not_assigned",
        "A ballot votes on a submission that is not its author's to audit.",
    )
    BALLOT_UNKNOWN_SUBMISSION = (
        "ballot_unknown_submission",
        "A ballot votes on none of the round's submissions.",
    )
    BALLOT_WITHOUT_SEAT = (
        "ballot_without_seat",
        "A ballot of a key without stake, beyond the seats that the task has for those.",
    )
    BALLOT_UNREVEALED = "ballot_unrevealed", "A sealed ballot was not revealed."
    BALLOT_UNDISPUTED = "ballot_undisputed", "A ballot of a full audit, which nobody opened."
    REVEAL_WITHOUT_BALLOT = "reveal_without_ballot", "A reveal of a ballot that is not in the bundle."
    SEAL_BROKEN = "seal_broken", "A reveal is not what its author sealed."
    CHALLENGE_UNKNOWN_SUBMISSION = (
        "challenge_unknown_submission",
        "A challenge of none of the round's submissions.",
    )
    CHALLENGE_OWN_SUBMISSION = (
        "challenge_own_submission",
        "A challenge of its author's own submission, when no canary may be owned up to.",
    )
    RECORD_OF_CONVICTED = (
        "record_of_convicted",
        "A ballot, reveal or challenge of somebody whom the round convicts of signing two records.",
    )
    EVIDENCE_IDLE = "evidence_idle", "Evidence that convicts nobody in this round."
    SUBMISSIONS_ROOT = "submissions_root", "The bundle's submissions do not hash to the committed root."
    BALLOTS_ROOT = "ballots_root", "The bundle's ballots do not hash to the committed root."
    REVEALS_ROOT = "reveals_root", "The bundle's reveals do not hash to the committed root."
    FULL_BALLOTS_ROOT = (
        "full_ballots_root",
        "The bundle's ballots of full audits do not hash to the committed root.",
    )
    CHALLENGES_ROOT = "challenges_root", "The bundle's challenges do not hash to the committed root."
    EVIDENCE_ROOT = "evidence_root", "The bundle's evidence does not hash to the committed root."
    OUTCOME = "outcome", "The records lead to another outcome than committed."
    AUDITOR_STATUS = "auditor_status", "The records lead to another standing of an auditor than committed."
    COUNTS = "counts", "The committed counts are not those of the bundle."
    LIST_MALFORMED = "list_malformed", "The list's bytes are not a distribution list."
    LIST_ROUND = "list_round", "The list is of another round."
    LIST_ROOT = "list_root", "The list does not hash to the root on the chain."
    LIST_LEAF = "list_leaf", "A staker's totals are not what the outcomes lead to."
    LIST_LEAF_MISSING = "list_leaf_missing", "The list lacks a staker."
    LIST_LEAF_EXTRA = "list_leaf_extra", "The list has somebody who is no staker."
    LIST_BOUNDS = "list_bounds", "The list gives or takes what no distribution may."
    REWARD_TOTAL = "reward_total", "The reward total on the chain is not that of the list."
    SLASH_TOTAL = "slash_total", "The slash total on the chain is not that of the list."
    DISTRIBUTION = "distribution", "The task's distribution or the previous list leads to no valid list."


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: its kind, a sentence, and the key (32 bytes) of whom it concerns, if any."""

    code: FindingCode
    text: str
    subject: bytes | None = None
