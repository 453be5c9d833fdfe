from __future__ import annotations

import pytest

from koii_p2p.records.schema import Verdict
from koii_p2p.tasks import audits
from koii_p2p.tasks.audit_reasons import evidence_of, reason_in
from koii_p2p.tasks.audits import AuditReason
from koii_p2p.tasks.process import CallFailed, Failure
from tests.tasks.conftest import Running

KEY = b"k" * 32


@pytest.mark.parametrize("reason", [one for one in AuditReason if one is not AuditReason.AS_EXPECTED])
def test_every_reason_of_an_audit_is_known_again(reason: AuditReason) -> None:
    for detail in ("", "expected 1, got 2"):
        evidence = evidence_of(audits.invalid(reason, detail).line())
        assert len(evidence) == 32
        assert reason_in(evidence) == reason.value


@pytest.mark.parametrize("failure", Failure)
def test_so_is_why_a_call_gave_nothing(failure: Failure) -> None:
    assert reason_in(evidence_of(str(CallFailed(failure, "some detail")))) == failure.value


def test_what_a_task_says_in_its_own_words_is_not_sent() -> None:
    for line in ("", "as expected", "different", "differentfrom", "a secret", "raised"[:-1]):
        assert evidence_of(line) == b""
    assert reason_in(b"") is None
    assert reason_in(bytes(32)) is None, "another software may know other reasons"


def test_reasons_differ() -> None:
    lines = [*(one.value for one in AuditReason), *(one.value for one in Failure)]
    digests = [evidence_of(line) for line in lines if line != AuditReason.AS_EXPECTED]
    assert len(set(digests)) == len(digests)


async def test_the_line_of_a_real_audit_leads_to_its_reason(running: Running) -> None:
    async with running("reasons.py") as runner:
        found = {}
        for submission in ("42", "41", "gone"):
            verdict, line = await runner.audit(submission, 0, KEY)
            found[submission] = (verdict, reason_in(evidence_of(line)))
    assert found == {
        "42": (Verdict.VALID, None),
        "41": (Verdict.INVALID, AuditReason.DIFFERENT.value),
        "gone": (Verdict.UNAVAILABLE, AuditReason.NOT_SERVED.value),
    }
