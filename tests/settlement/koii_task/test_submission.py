"""A round's anchor in Koii's submission string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.settlement.koii_task.submission import ListAnchor, RoundAnchor, SubmissionError

digests = st.binary(min_size=32, max_size=32)
u64 = st.integers(0, 2**64 - 1)
anchors = st.builds(RoundAnchor, u64, digests, st.none() | st.builds(ListAnchor, digests, u64, u64))


@given(anchors)
def test_an_anchor_comes_back(anchor: RoundAnchor) -> None:
    text = anchor.encode()
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 512
    assert not text.endswith(" ")
    assert RoundAnchor.decode(text) == anchor
    assert RoundAnchor.decode(text.ljust(512)) == anchor, "Koii pads with spaces"


@given(anchors, st.integers(0, 200), st.characters(codec="utf-8"))
def test_each_anchor_has_one_text(anchor: RoundAnchor, place: int, character: str) -> None:
    text = anchor.encode()
    changed = text[:place] + character + text[place + 1 :]
    try:
        found = RoundAnchor.decode(changed)
    except SubmissionError:
        return
    assert (found == anchor) == (changed.rstrip(" \0") == text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "QmCidOfSomeOtherNode",
        "koii-p2p/1|1",
        "koii-p2p/2|1|" + "1" * 32,
        "koii-p2p/1|01|" + "1" * 32,
        "koii-p2p/1|+1|" + "1" * 32,
        "koii-p2p/1|\u0661|" + "1" * 32,
        "koii-p2p/1|18446744073709551616|" + "1" * 32,
        "koii-p2p/1|1|" + "1" * 31,
        "koii-p2p/1|1|" + "z" * 44,
        "koii-p2p/1|1|" + "0" * 32,
        "koii-p2p/1|1|" + "1" * 400,
        "koii-p2p/1|1|" + "1" * 32 + "|" + "1" * 32,
        "x" * 513,
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(SubmissionError):
        RoundAnchor.decode(text)


@pytest.mark.parametrize(
    "anchor", [RoundAnchor(-1, b"c" * 32), RoundAnchor(2**64, b"c" * 32), RoundAnchor(1, b"c")]
)
def test_what_does_not_fit_is_refused(anchor: RoundAnchor) -> None:
    with pytest.raises(SubmissionError):
        anchor.encode()
