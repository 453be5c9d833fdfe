"""`koii-p2p explain`: why a key was or was not paid for a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import trio
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.key_names import KeyNames, check_key, text_of
from koii_p2p.cli.list_rule import CodeOption, existing, with_rule
from koii_p2p.cli.main import Invocation
from koii_p2p.cli.output import configure_logs, koii, pairs, print_result, table
from koii_p2p.cli.round_facts import (
    Asked,
    EvidenceOption,
    Gathered,
    KeyArgument,
    PeerOption,
    RoundArgument,
    TaskOption,
    gather,
)
from koii_p2p.cli.settings import load_settings
from koii_p2p.records.schema import Submission, Verdict
from koii_p2p.rounds.audit_rules import BASIS_POINTS, Profile
from koii_p2p.rounds.explain import Anchors, Explanation, explain
from koii_p2p.rounds.explain_audit import AuditDetail, FullAudit
from koii_p2p.rounds.explain_money import AmountDetail, OwnRule
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.why import Why
from koii_p2p.settlement.instructions import AnchorCommitment, AnchorList
from koii_p2p.tasks.audit_reasons import reason_in

Name = Callable[[bytes], str]
"""How a key is written."""

Signatures = tuple[bytes | None, bytes | None]
"""Of the transactions that anchored commitment and list, where they are known."""

SHOWN_VALUE = 80
"""Characters of a submission's value that are shown."""

_NOT_RUN = "the rule is the task's own, which was not run again here (--code), or the list is wrong."

_RUNNING = frozenset({Why.NOT_BEGUN, Why.WORKING, Why.SUBMITTING, Why.AUDITING, Why.AWAITING_COMMITMENT})
_NOT_YET = frozenset({Why.AWAITING_LIST, Why.LIST_OVERDUE, Why.LIST_REJECTED, Why.LIST_IN_AUDIT})
_UNKNOWN = frozenset({Why.LIST_UNREAD, Why.AMOUNT_UNKNOWN})


def command(
    ctx: typer.Context,
    number: RoundArgument,
    key: KeyArgument = None,
    task: TaskOption = None,
    peer: PeerOption = None,
    evidence: EvidenceOption = None,
    code: CodeOption = None,
) -> None:
    """Say why a key was or was not paid for a round: auditors due, votes seen and missing, outcome, list, proof.

    Asks the node of this home, running or stopped, for the round's bytes, and K2 for what they have to match. With
    --code, a distribution of the task's own is run again, and held against the list.
    """
    invocation: Invocation = ctx.obj
    loaded = load_settings(invocation)
    configure_logs(invocation.verbosity, "warning")
    asked = Asked(number, task, peer, evidence)
    if key is not None:
        check_key(key)
    gathered = trio.run(gather, loaded, asked)
    subject = gathered.subject(key)
    about = gathered.about(subject)
    if code is None:
        found = explain(about, subject)
    else:
        found = trio.run(with_rule, existing(code), about.terms, partial(explain, about, subject))
    signatures = signatures_of(gathered, found.anchors)
    name = KeyNames({subject, *gathered.keys})
    print_result(
        explanation_json(found, signatures),
        explanation_tables(found, signatures, name),
        loaded.settings.output,
    )


def signatures_of(gathered: Gathered, anchors: Anchors | None) -> Signatures:
    """Those of the two transactions: from K2's history if it was read, else as their senders announced them."""
    if anchors is None:
        return None, None
    number = anchors.anchored.round
    commitment = gathered.anchors.signature_of(AnchorCommitment, number) or anchors.commitment_signature
    listing = gathered.anchors.signature_of(AnchorList, number) or anchors.list_signature
    return commitment, listing


# --- in sentences


def verdict_of(found: Explanation, name: Name = text_of) -> str:
    """The answer in one sentence."""
    who, number, amounts = name(found.key), found.round, found.amounts
    match found.money:
        case Why.PAID if amounts:
            return f"{who} was paid {koii(amounts.reward or 0)} for round {number}."
        case Why.UNCLAIMED if amounts:
            return f"{who} earned {koii(amounts.reward or 0)} in round {number} and has not claimed it yet."
        case Why.SLASH_TAKEN if amounts:
            return f"{who} lost {koii(amounts.slash or 0)} of its stake for round {number}."
        case Why.SLASH_PENDING if amounts:
            return f"{who} is to lose {koii(amounts.slash or 0)} of its stake for round {number}."
        case why if why in _UNKNOWN:
            return f"It cannot be told from what is at hand whether {who} was paid for round {number}."
        case why if why in _NOT_YET:
            return f"{who} has not been paid for round {number} yet."
    if found.work in _RUNNING:
        return f"{who} has not been paid for round {number} yet: it is not over."
    return f"{who} was not paid for round {number}."


def reasons_of(found: Explanation, name: Name = text_of) -> list[str]:
    """Why, in sentences: the work, then the money, each with what a person needs to follow it."""
    reasons = [str(found.work.__doc__)]
    if found.doubt:
        reasons.append(found.doubt)
    if found.work is Why.BELOW_MINIMUM:
        reasons.append(f"The minimum is {koii(found.minimum_stake)}.")
    if found.work is Why.EJECTED and found.amounts and found.amounts.effective_stake is not None:
        left, stake = koii(found.amounts.effective_stake), koii(found.stake)
        reasons.append(f"They leave {left} of its {stake}, and the minimum is {koii(found.minimum_stake)}.")
    if found.work in (Why.UNVERIFIABLE, Why.EJECTED) and found.outcome is not None:
        reasons.append(f"The commitment says {found.outcome.name} of its work.")
    if found.equivocation is not None:
        first, second = found.equivocation
        reasons.append(f"The two records are {first.hex()} and {second.hex()}.")
    if found.audit is not None:
        reasons += _audit_reasons(found.audit, name)
    if found.money is not None:
        reasons.append(str(found.money.__doc__))
    if found.anchors is not None:
        reasons += _anchor_reasons(found, found.anchors)
    if found.amounts is not None:
        reasons += _amount_reasons(found.amounts, name)
    reasons += _opinion_reasons(found)
    return reasons


def _audit_reasons(audit: AuditDetail, name: Name) -> Iterator[str]:
    if audit.profile is Profile.KOII:
        against = sum(vote.first is Verdict.INVALID for vote in audit.votes)
        yield (
            f"{audit.score + against} voted for it and {against} against it; every vote counts the same, and "
            "whoever says nothing counts for nothing."
        )
        return
    if audit.rate < BASIS_POINTS:
        yield f"Its author is audited in {_basis_points(audit.rate)} of all rounds."
    drawn = audit.drawn
    if drawn:
        voted = [vote for vote in drawn if vote.first is not None]
        counts = _counted(vote.first for vote in voted)
        yield f"Of {_many(len(drawn), 'auditor')} drawn, {len(voted)} voted{f': {counts}' if counts else ''}."
        silent = [name(vote.auditor) for vote in drawn if vote.first is None]
        if silent:
            yield f"Nothing came from {', '.join(silent)}."
    why = Counter(reason for vote in audit.votes if (reason := reason_in(vote.evidence)) is not None)
    if why:
        given = "; ".join(f"{reason} ({count})" for reason, count in why.most_common())
        yield f"The reasons that auditors gave: {given}."
    if audit.accusers:
        yield f"It was accused by {', '.join(map(name, audit.accusers))}, which opened a full audit."
    if audit.canary:
        yield "Its author owned up to known-bad work before any vote could be read."
    if audit.full is not None:
        yield from _full_audit_reasons(audit.full)


def _full_audit_reasons(full: FullAudit) -> Iterator[str]:
    due = _percent(full.voted_weight, full.committee_weight)
    if full.counted:
        against = _percent(full.against_weight, full.committee_weight)
        yield (
            f"In the full audit, {due} of the weight that was due voted, and {against} "
            f"({_many(full.against, 'auditor')}) said INVALID; a slash takes more than half of the weight and "
            f"{_many(full.quorum, 'auditor')}."
        )
    else:
        yield f"In the full audit, {due} of the weight that was due voted; it counts with more than half."


def _anchor_reasons(found: Explanation, anchors: Anchors) -> Iterator[str]:
    if found.money in (Why.LIST_REJECTED, Why.FORFEITED):
        yield f"Stakers with {koii(anchors.anchored.veto_stake)} vetoed attempt {anchors.anchored.attempt}."
    if found.money is Why.LIST_REJECTED and anchors.next_attempt is not None:
        opens, closes = anchors.next_attempt
        yield f"Attempt {anchors.anchored.attempt + 1} may be anchored in slots {opens} to {closes - 1}."
    if found.money is Why.LIST_IN_AUDIT:
        yield f"It is final from slot {anchors.settles_at} on; it is slot {found.slot}."


def _amount_reasons(amounts: AmountDetail, name: Name) -> Iterator[str]:
    if amounts.reward is None or amounts.slash is None:
        yield f"Up to this round it was given {koii(amounts.reward_total)} and lost {koii(amounts.slash_total)}."
        return
    if amounts.distributed and amounts.equal_split:
        yield (
            f"The bounty of {koii(amounts.bounty)}, in equal parts to the {amounts.approved} whose work was approved, "
            f"is {koii(amounts.distributed)} each."
        )
    elif amounts.distributed and amounts.own is None:
        yield f"{koii(amounts.distributed)} are not Koii's equal split: {_NOT_RUN}"
    for found in amounts.found:
        how = "accusing" if found.accused else "voting against"
        yield f"For {how} the fraud of {name(found.author)} it gets {koii(found.share)} of the slash."
    if amounts.slash and amounts.default_slash and amounts.effective_stake is not None:
        yield (
            f"{_basis_points(amounts.slash_basis_points)} of a stake of {koii(amounts.effective_stake)} is "
            f"{koii(amounts.slash)}."
        )
    elif amounts.slash and amounts.own is None:
        yield f"{koii(amounts.slash)} are not the slash of Koii's default: {_NOT_RUN}"
    if amounts.own is not None:
        yield _own_reason(amounts.own)


def _own_reason(own: OwnRule) -> str:
    if own.amount is None:
        return f"The task's own distribution was run again: {own.why}."
    does = f"takes {koii(-own.amount)}" if own.amount < 0 else f"gives {koii(own.amount)}"
    agrees = "as the list has it" if own.agrees else "and that does not lead to what the list has"
    return f"The task's own distribution, run again, {does}, {agrees}."


def _opinion_reasons(found: Explanation) -> Iterator[str]:
    for agree in (True, False):
        said = [one for one in found.opinions if one.agree is agree]
        if said:
            stake = koii(sum(one.stake for one in said))
            objections = sorted({(one.objection or ListObjection.NONE).name for one in said})
            what = "" if agree else f": {', '.join(objections)}"
            verb = "agreed" if agree else "disagreed"
            yield f"{_many(len(said), 'staker')} with {stake} {verb} with what is anchored{what}."


def _counted(verdicts: Iterable[Verdict | None]) -> str:
    listed = [verdict for verdict in verdicts if verdict is not None]
    return ", ".join(f"{listed.count(one)} {one.name}" for one in Verdict if one in listed)


def _percent(part: int, whole: int) -> str:
    """In percent, cut to one digit after the point: 33.3 %."""
    tenths = part * 1000 // whole if whole else 0
    return f"{tenths // 10}.{tenths % 10} %" if tenths % 10 else f"{tenths // 10} %"


def _basis_points(share: int) -> str:
    """1/10000 as percent, exactly: 0.01 %."""
    digits = f"{share // 100}.{share % 100:02d}".rstrip("0").rstrip(".")
    return f"{digits} %"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


# --- for a person


def explanation_tables(found: Explanation, signatures: Signatures, name: Name) -> RenderableType:
    """An explanation for a person: the answer, why, and the tables behind it. `name` writes keys in short."""
    parts: list[RenderableType] = [Text(verdict_of(found, name), style="bold")]
    parts += [Text(f"  {reason}") for reason in reasons_of(found, name)]
    parts += [Text(), pairs(_about(found, signatures, name))]
    if found.audit is not None and found.audit.votes:
        parts += [Text("\nwho audited it", style="bold"), _votes_table(found.audit, name)]
    if found.duties:
        rows = [
            (
                name(duty.author),
                "full audit" if duty.in_full_audit else "drawn",
                duty.verdict.name if duty.verdict else "nothing",
            )
            for duty in found.duties
        ]
        parts += [Text("\nwhat it had to audit", style="bold"), table(("author", "due", "said"), rows)]
    if any(not one.agree for one in found.opinions):
        rows = [
            (
                name(one.author),
                koii(one.stake),
                "agrees" if one.agree else f"disagrees: {(one.objection or ListObjection.NONE).name}",
            )
            for one in found.opinions
        ]
        parts += [Text("\nwho said what of the list", style="bold"), table(("staker", "stake", "said"), rows)]
    return Group(*parts)


def _about(found: Explanation, signatures: Signatures, name: Name) -> dict[str, object]:
    about: dict[str, object] = {
        "why": ", ".join(why.value for why in (found.work, found.money) if why),
        "key": text_of(found.key),
        "task": text_of(found.task),
        "round": f"{found.round}: {found.phase.value}, in slot {found.slot}",
        "stake": koii(found.stake),
    }
    if found.submission is not None:
        about["submitted"] = f"{_value(found.submission.statement.body)} (record {found.submission.id.hex()})"
    if found.status is not None:
        about["as auditor"] = found.status.name.lower()
    if found.amounts is not None:
        totals = koii(found.amounts.reward_total), koii(found.amounts.slash_total)
        settled = koii(found.amounts.paid), koii(found.amounts.taken)
        about["listed"] = f"{totals[0]} of rewards and {totals[1]} of slashes in total, up to this round"
        about["settled"] = f"K2 has paid {settled[0]} and taken {settled[1]} in total, up to now"
    if found.anchors is not None:
        anchored = found.anchors.anchored
        about["commitment"] = _anchor(
            anchored.commitment, anchored.commitment_slot, name(anchored.commitment_by), signatures[0]
        )
        if anchored.list_root is not None and anchored.list_by is not None:
            about["list"] = _anchor(
                anchored.list_root, anchored.list_slot, name(anchored.list_by), signatures[1]
            )
        about["attempt"] = f"{anchored.attempt}, final from slot {found.anchors.settles_at} on"
    if found.proof is not None:
        siblings = found.proof.proof.siblings
        about["leaf"] = found.proof.leaf.encode().hex()
        about["path"] = "\n".join(one.hex() for one in siblings) or "none: the leaf is the whole list"
        about["directions"] = found.proof.proof.directions
    return about


def _anchor(digest: bytes, slot: int, by: str, signature: bytes | None) -> str:
    line = f"{digest.hex()} in slot {slot} by {by}"
    return line if signature is None else f"{line}\ntransaction {text_of(signature)}"


def _votes_table(audit: AuditDetail, name: Name) -> RenderableType:
    whole = sum(vote.weight for vote in audit.votes)
    rows = [
        (
            name(vote.auditor),
            _percent(vote.weight, whole),
            "drawn" if vote.drawn else "full audit" if vote.in_committee else "-",
            vote.first.name if vote.first else "-",
            vote.full.name if vote.full else "-",
            "yes" if vote.challenged or vote.auditor in audit.accusers else "-",
            reason_in(vote.evidence) or "-",
        )
        for vote in audit.votes
    ]
    return table(
        ("auditor", "weight", "due", "vote", "in the full audit", "accused it", "why, it says"), rows
    )


def _value(body: object) -> str:
    value = body.value if isinstance(body, Submission) else ""
    text = value if isinstance(value, str) else value.hex()
    shown = text if text.isprintable() else repr(text)
    return shown if len(shown) <= SHOWN_VALUE else f"{shown[: SHOWN_VALUE - 1]}…"


# --- for a program


def explanation_json(found: Explanation, signatures: Signatures) -> dict[str, Any]:
    """An explanation as JSON-ready values: keys in base58, digests in hex, amounts in Roe."""
    return {
        "task": text_of(found.task),
        "round": found.round,
        "key": text_of(found.key),
        "slot": found.slot,
        "phase": found.phase.value,
        "verdict": verdict_of(found),
        "work": _why_json(found.work),
        "money": None if found.money is None else _why_json(found.money),
        "doubt": found.doubt,
        "reasons": reasons_of(found),
        "stake": found.stake,
        "minimum_stake": found.minimum_stake,
        "submission": None
        if found.submission is None
        else {"id": found.submission.id.hex(), "slot": found.submission.statement.slot},
        "outcome": None if found.outcome is None else found.outcome.name,
        "status": None if found.status is None else found.status.name,
        "audit": None if found.audit is None else _audit_json(found.audit),
        "duties": [
            {
                "author": text_of(duty.author),
                "verdict": duty.verdict.name if duty.verdict else None,
                "in_full_audit": duty.in_full_audit,
            }
            for duty in found.duties
        ],
        "equivocation": None if found.equivocation is None else [one.hex() for one in found.equivocation],
        "amounts": None if found.amounts is None else _amounts_json(found.amounts),
        "leaf": _leaf_json(found),
        "anchors": None if found.anchors is None else _anchors_json(found.anchors, signatures),
        "list_votes": [
            {
                "author": text_of(one.author),
                "stake": one.stake,
                "agree": one.agree,
                "objection": None if one.objection is None else one.objection.name,
            }
            for one in found.opinions
        ],
    }


def _why_json(why: Why) -> dict[str, str]:
    return {"name": why.value, "meaning": str(why.__doc__)}


def _audit_json(audit: AuditDetail) -> dict[str, Any]:
    full = audit.full
    return {
        "profile": audit.profile.name.lower(),
        "audited": audit.audited,
        "rate": audit.rate,
        "votes": [
            {
                "auditor": text_of(vote.auditor),
                "weight": vote.weight,
                "drawn": vote.drawn,
                "in_committee": vote.in_committee,
                "first": vote.first.name if vote.first else None,
                "full": vote.full.name if vote.full else None,
                "challenged": vote.challenged,
                "reason": reason_in(vote.evidence),
            }
            for vote in audit.votes
        ],
        "missing": [text_of(one) for one in audit.missing],
        "accusers": [text_of(one) for one in audit.accusers],
        "canary": audit.canary,
        "score": audit.score if audit.profile is Profile.KOII else None,
        "full_audit": None
        if full is None
        else {
            "committee_weight": full.committee_weight,
            "voted_weight": full.voted_weight,
            "valid_weight": full.valid_weight,
            "invalid_weight": full.against_weight,
            "unavailable_weight": full.unavailable_weight,
            "invalid_votes": full.against,
            "quorum": full.quorum,
            "counted": full.counted,
        },
    }


def _amounts_json(amounts: AmountDetail) -> dict[str, Any]:
    return {
        "reward": amounts.reward,
        "slash": amounts.slash,
        "reward_total": amounts.reward_total,
        "slash_total": amounts.slash_total,
        "paid": amounts.paid,
        "taken": amounts.taken,
        "distributed": amounts.distributed,
        "found": [
            {"author": text_of(one.author), "share": one.share, "accused": one.accused}
            for one in amounts.found
        ],
        "bounty": amounts.bounty,
        "approved": amounts.approved,
        "slash_basis_points": amounts.slash_basis_points,
        "effective_stake": amounts.effective_stake,
        "own_rule": None if amounts.own is None else asdict(amounts.own),
    }


def _leaf_json(found: Explanation) -> dict[str, Any] | None:
    if found.proof is None:
        return None
    return {
        "bytes": found.proof.leaf.encode().hex(),
        "siblings": [one.hex() for one in found.proof.proof.siblings],
        "directions": found.proof.proof.directions,
        "root": found.proof.root.hex(),
    }


def _anchors_json(anchors: Anchors, signatures: Signatures) -> dict[str, Any]:
    anchored = anchors.anchored
    return {
        "attempt": anchored.attempt,
        "commitment": anchored.commitment.hex(),
        "commitment_slot": anchored.commitment_slot,
        "commitment_by": text_of(anchored.commitment_by),
        "commitment_signature": None if signatures[0] is None else text_of(signatures[0]),
        "list_root": None if anchored.list_root is None else anchored.list_root.hex(),
        "list_slot": None if anchored.list_root is None else anchored.list_slot,
        "list_by": None if anchored.list_by is None else text_of(anchored.list_by),
        "list_signature": None if signatures[1] is None else text_of(signatures[1]),
        "settles_at": anchors.settles_at,
        "veto_stake": anchored.veto_stake,
        "rejected": anchored.rejected,
        "next_attempt": None if anchors.next_attempt is None else list(anchors.next_attempt),
    }
