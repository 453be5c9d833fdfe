"""A Koii task's state read as ours: terms, rounds, vetoes and stakes.

K2 takes submissions of a round in the first slots of the period after it, which are those of the distribution window
of the round before. So the anchor of round r travels as a submission for round r + 1, and audits of that submission
fall into the slots in which r's list is vetoed. There is one attempt: K2 takes nothing in the slots of a second one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.audit_rules import AuditRules
from koii_p2p.rounds.roster import Checkpoint, StakeHistory
from koii_p2p.rounds.terms import MAX_NAME_BYTES, MAX_PROGRAM_BYTES, TaskTerms
from koii_p2p.settlement.interface import AnchoredList
from koii_p2p.settlement.koii_task.state import KoiiAudit, KoiiSubmission, KoiiTaskState
from koii_p2p.settlement.koii_task.submission import RoundAnchor, SubmissionError

ROUND_OFFSET: Final = 1
"""Our round r is anchored in the submissions of Koii's round r + 1."""


def terms_of(task: bytes, state: KoiiTaskState, slash_basis_points: int, audit: AuditRules) -> TaskTerms:
    """The task's terms; what Koii's state does not have, the slash and the audit game, is given by settings.

    Raises TermsError. No second attempt of a round fits into K2's windows, so none is allowed.
    """
    return TaskTerms(
        task=task,
        creator=state.task_manager,
        name=_cut(state.task_name, MAX_NAME_BYTES) or "unnamed",
        program=_cut(state.task_audit_program, MAX_PROGRAM_BYTES),
        starting_slot=state.starting_slot,
        round_time=state.round_time,
        submission_window=state.submission_window,
        audit_window=state.audit_window,
        bounty_per_round=state.bounty_amount_per_round,
        minimum_stake=max(1, state.minimum_stake_amount),
        slash_basis_points=slash_basis_points,
        allowed_failed_distributions=0,
        audit=audit,
    )


def stakes_of(state: KoiiTaskState) -> tuple[StakeHistory, ...]:
    """The stakes as they are now. K2 keeps no slot of a stake, so each counts as if it had always been there."""
    return tuple(
        StakeHistory(staker, staker, (Checkpoint(0, amount, 0),))
        for staker, amount in sorted(state.stake_list.items())
        if amount
    )


def rounds_of(state: KoiiTaskState, *, raise_is_vote: bool) -> dict[int, AnchoredRound]:
    """Every round whose anchor the state still holds: K2 forgets submissions after some rounds.

    The first staked submitter's commitment counts, then the first list that names this commitment: by slot and, since
    the state does not keep the order in a slot, by key.
    """
    rounds = {}
    for number, submissions in state.submissions.items():
        found = rounds_in(submissions, number - ROUND_OFFSET, state.stake_list)
        if found is not None:
            audits = state.submissions_audit_trigger.get(number, {})
            rounds[found.round] = _judged(found, audits, state, raise_is_vote=raise_is_vote)
    return dict(sorted(rounds.items()))


def rounds_in(
    submissions: Mapping[bytes, KoiiSubmission], round: int, stakes: Mapping[bytes, int]
) -> AnchoredRound | None:
    """The anchored round in one round's submissions, or None if nobody staked anchored it."""
    anchors = []
    for key, submission in submissions.items():
        try:
            anchor = RoundAnchor.decode(submission.value)
        except SubmissionError:
            continue  # what today's nodes of the task submit
        if anchor.round == round and stakes.get(key, 0):
            anchors.append((submission.slot, key, anchor))
    if not anchors:
        return None
    # A list repeats the commitment it follows, so in one slot the bare commitment came first.
    anchors.sort(key=lambda one: (one[0], one[2].listed is not None, one[1]))
    slot, by, first = anchors[0]
    held = AnchoredRound(round, 0, first.commitment, slot, by)
    for slot, by, anchor in anchors:
        if anchor.listed is not None and anchor.commitment == first.commitment:
            return replace(
                held,
                list_root=anchor.listed.root,
                reward_total=anchor.listed.reward_total,
                slash_total=anchor.listed.slash_total,
                list_slot=slot,
                list_by=by,
            )
    return held


def against(audit: KoiiAudit, *, raise_is_vote: bool) -> frozenset[bytes]:
    """Who is against what the audit is about; nobody counts twice."""
    voters = {vote.voter for vote in audit.votes if not vote.is_valid}
    return frozenset(voters | {audit.trigger_by} if raise_is_vote else voters)


def newest_list(rounds: Iterable[AnchoredRound]) -> AnchoredList | None:
    """The list of the highest of these rounds that has one and was not rejected."""
    for one in sorted(rounds, key=lambda one: one.round, reverse=True):
        if one.list_root is not None and not one.rejected:
            totals = one.reward_total, one.slash_total
            return AnchoredList(one.round, one.attempt, one.list_root, *totals, one.list_slot)
    return None


def _judged(
    held: AnchoredRound, audits: Mapping[bytes, KoiiAudit], state: KoiiTaskState, *, raise_is_vote: bool
) -> AnchoredRound:
    # A veto is an audit of the submission that holds the list or, if there is none, the commitment.
    audit = audits.get(held.list_by or held.commitment_by)
    if audit is None:
        return held
    voters = against(audit, raise_is_vote=raise_is_vote)
    stake = sum(state.stake_list.get(voter, 0) for voter in voters)
    return replace(held, veto_stake=stake, rejected=2 * stake > sum(state.stake_list.values()))


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")
