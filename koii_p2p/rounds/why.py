"""Why a key was or was not paid for a round: every end that there is, each with a name and a sentence."""

from __future__ import annotations

from enum import StrEnum

from koii_p2p.records.meanings import Meaning


class About(StrEnum):
    """What a reason is about: an explanation has one about the work, and one about the money once K2 has an anchor."""

    WORK = "work"
    """What the round came to for the key."""
    MONEY = "money"
    """What became of the amount that this led to."""


class Why(Meaning):
    """One reason. The value is the portable name; `Why.X.__doc__` is its sentence, `Why.X.about` what it is about."""

    about: About

    def __init__(self, code: str, about: About, meaning: str) -> None:
        """Say what the member is `about`."""
        super().__init__(code, meaning)
        self.about = about

    # --- who may take part
    NOT_BEGUN = "not_begun", About.WORK, "The round has not begun: who takes part is not settled yet."
    NO_STAKE = "no_stake", About.WORK, "The key has no stake in this task."
    STAKED_LATER = "staked_later", About.WORK, "The key staked after the round had begun."
    BELOW_MINIMUM = (
        "below_minimum",
        About.WORK,
        "The key's stake was below the task's minimum when the round began.",
    )
    UNSTAKING = "unstaking", About.WORK, "The key had asked for its stake back before the round began."
    WITNESSED_WITHOUT_STAKE = (
        "witnessed_without_stake",
        About.WORK,
        "The key audited on a seat for keys without stake: that earns reputation, and no coins.",
    )
    # --- a round on its way
    WORKING = "working", About.WORK, "The round's work is being done."
    SUBMITTING = "submitting", About.WORK, "Submissions of the round are being handed in."
    AUDITING = "auditing", About.WORK, "Submissions of the round are being audited."
    AWAITING_COMMITMENT = (
        "awaiting_commitment",
        About.WORK,
        "The audit is over, and nobody has anchored a commitment yet.",
    )
    NO_COMMITMENT = (
        "no_commitment",
        About.WORK,
        "Nobody anchored a commitment in time, so that nothing of the round counts.",
    )
    # --- what can be said of a commitment
    COMMITMENT_UNREAD = (
        "commitment_unread",
        About.WORK,
        "A commitment is anchored, and its bytes are not at hand.",
    )
    COMMITMENT_FALSE = (
        "commitment_false",
        About.WORK,
        "The anchored commitment does not follow from the records that it is about.",
    )
    UNVERIFIABLE = (
        "unverifiable",
        About.WORK,
        "The commitment says what became of the work, but what that follows from is not at hand.",
    )
    # --- what the round came to, whatever was handed in
    EJECTED = (
        "ejected",
        About.WORK,
        "Slashes of earlier rounds leave less than the minimum stake: the key is neither paid nor slashed again.",
    )
    EQUIVOCATED = (
        "equivocated",
        About.WORK,
        "The key signed two different records where there may be one: nothing is paid, and stake is slashed.",
    )
    # --- nothing in the commitment
    SUBMISSION_OMITTED = (
        "submission_omitted",
        About.WORK,
        "The commitment lacks the key's submission, although the node that was asked received it in time.",
    )
    SUBMISSION_LATE = (
        "submission_late",
        About.WORK,
        "The commitment lacks the key's submission, which the node that was asked received late.",
    )
    AUDITED_ONLY = (
        "audited_only",
        About.WORK,
        "The key audited and handed in no work: only finding a fraud can earn it something.",
    )
    NOTHING_SUBMITTED = "nothing_submitted", About.WORK, "The key handed in no work."
    # --- by the rules of Koii's public client
    KOII_UNOPPOSED = (
        "koii_unopposed",
        About.WORK,
        "Approved: nobody voted against it, and silence approves (profile koii).",
    )
    KOII_APPROVED = (
        "koii_approved",
        About.WORK,
        "Approved: more nodes voted for it than against it (profile koii).",
    )
    KOII_TIED = (
        "koii_tied",
        About.WORK,
        "Undecided: as many nodes voted for it as against it, which earns and costs nothing (profile koii).",
    )
    KOII_REJECTED = (
        "koii_rejected",
        About.WORK,
        "Rejected: more nodes voted against it than for it (profile koii).",
    )
    # --- canaries
    CANARY_FOUND = (
        "canary_found",
        About.WORK,
        "Known-bad work that its author owned up to in time, and that a full audit found: it costs nothing.",
    )
    CANARY_NOT_FOUND = (
        "canary_not_found",
        About.WORK,
        "Known-bad work that its author owned up to, and that no full audit found: it earns and costs nothing.",
    )
    # --- without an accusation
    NOT_AUDITED = (
        "not_audited",
        About.WORK,
        "Approved: it was not its turn to be audited, and nobody accused it.",
    )
    APPROVED_BY_DRAWN = (
        "approved_by_drawn",
        About.WORK,
        "Approved: of the auditors drawn for it, more than half of the weight that voted called it good.",
    )
    UNAVAILABLE_TO_DRAWN = (
        "unavailable_to_drawn",
        About.WORK,
        "Unavailable: the auditors drawn for it could not get at what there is to audit.",
    )
    UNDECIDED_ALONE = (
        "undecided_alone",
        About.WORK,
        "Undecided: nobody else had a stake, so that nobody could audit it.",
    )
    UNDECIDED_SILENCE = (
        "undecided_silence",
        About.WORK,
        "Undecided: none of the auditors drawn for it voted.",
    )
    UNDECIDED_TIE = (
        "undecided_tie",
        About.WORK,
        "Undecided: of the auditors drawn for it, no verdict had more than half of the weight that voted.",
    )
    # --- with a full audit that counted
    APPROVED_BY_FULL_AUDIT = (
        "approved_by_full_audit",
        About.WORK,
        "Approved: it was accused, and more than half of the weight that voted in the full audit called it good.",
    )
    REJECTED_BY_FULL_AUDIT = (
        "rejected_by_full_audit",
        About.WORK,
        "Rejected: more than half of the weight of a full audit called it bad, so that stake is slashed.",
    )
    UNAVAILABLE_IN_FULL_AUDIT = (
        "unavailable_in_full_audit",
        About.WORK,
        "Unavailable: a full audit could not get at what there is to audit.",
    )
    UNDECIDED_QUORUM = (
        "undecided_quorum",
        About.WORK,
        "Undecided: most of the weight of a full audit called it bad, but fewer auditors than a slash needs.",
    )
    APPROVED_FEW_AGAINST = (
        "approved_few_against",
        About.WORK,
        "Approved: a full audit had no majority, no more than a third of the weight is against it, and those drawn for "
        "it called it good.",
    )
    UNAVAILABLE_FEW_AGAINST = (
        "unavailable_few_against",
        About.WORK,
        "Unavailable: a full audit had no majority, no more than a third of the weight is against it, and those drawn "
        "could not get at it.",
    )
    UNDECIDED_FULL_AUDIT = (
        "undecided_full_audit",
        About.WORK,
        "Undecided: a full audit had no majority for or against it, and those drawn do not settle it.",
    )
    # --- with a full audit in which too few voted
    APPROVED_ACCUSATION_LAPSED = (
        "approved_accusation_lapsed",
        About.WORK,
        "Approved: it was accused, too few voted in the full audit for that to count, and without that it is approved.",
    )
    UNAVAILABLE_ACCUSATION_LAPSED = (
        "unavailable_accusation_lapsed",
        About.WORK,
        "Unavailable: it was accused, too few voted in the full audit for that to count, and those drawn could not "
        "get at it.",
    )
    UNDECIDED_ACCUSATION_LAPSED = (
        "undecided_accusation_lapsed",
        About.WORK,
        "Undecided: it was accused, too few voted in the full audit for that to count, and those drawn had no majority "
        "for it.",
    )
    # --- the list
    AWAITING_LIST = (
        "awaiting_list",
        About.MONEY,
        "The round is committed to, and nobody has anchored its list yet.",
    )
    LIST_OVERDUE = (
        "list_overdue",
        About.MONEY,
        "Nobody anchored a list in time; more than half of all stake may still veto that and open another attempt.",
    )
    NO_LIST = "no_list", About.MONEY, "Nobody anchored a list in time, so that the round pays nobody."
    LIST_REJECTED = (
        "list_rejected",
        About.MONEY,
        "The attempt was vetoed by more than half of all stake, and another one may follow.",
    )
    FORFEITED = (
        "forfeited",
        About.MONEY,
        "The attempt was vetoed by more than half of all stake, and none is left: the round pays nobody.",
    )
    LIST_IN_AUDIT = "list_in_audit", About.MONEY, "The list is anchored, and may still be vetoed."
    LIST_UNREAD = "list_unread", About.MONEY, "The list is anchored, and its bytes are not at hand."
    NOT_LISTED = "not_listed", About.MONEY, "The key is not on the list."
    AMOUNT_UNKNOWN = (
        "amount_unknown",
        About.MONEY,
        "Lists are cumulative, and the one before is not at hand: what this round added cannot be told.",
    )
    # --- the amount
    GAVE_NOTHING = (
        "gave_nothing",
        About.MONEY,
        "The work was approved, and the task's distribution gave nothing for it.",
    )
    NOTHING_DUE = (
        "nothing_due",
        About.MONEY,
        "The round neither gives the key anything nor takes anything from it.",
    )
    UNCLAIMED = (
        "unclaimed",
        About.MONEY,
        "The reward is on the list for good, and was not claimed from K2 yet.",
    )
    PAID = "paid", About.MONEY, "K2 has paid the reward in full."
    SLASH_PENDING = (
        "slash_pending",
        About.MONEY,
        "The slash is on the list for good, and K2 has not taken it yet.",
    )
    SLASH_TAKEN = "slash_taken", About.MONEY, "K2 has taken the slash."


APPROVED = frozenset(
    {
        Why.KOII_UNOPPOSED,
        Why.KOII_APPROVED,
        Why.NOT_AUDITED,
        Why.APPROVED_BY_DRAWN,
        Why.APPROVED_BY_FULL_AUDIT,
        Why.APPROVED_FEW_AGAINST,
        Why.APPROVED_ACCUSATION_LAPSED,
    }
)
"""The ends of work that is paid for."""


def why_table() -> str:
    """Every reason as a table in Markdown: name, what it is about, sentence."""
    rows = [f"| `{why.value}` | {why.about.value} | {why.__doc__} |" for why in Why]
    return "\n".join(("| name | about | meaning |", "|---|---|---|", *rows)) + "\n"
