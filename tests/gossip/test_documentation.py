"""`docs/gossip.md` says what the code says: every refusal with its cost, every parameter with its default."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from koii_p2p.gossip.parameters import (
    Bounds,
    Degrees,
    GossipParameters,
    ScoreParameters,
    Thresholds,
    TopicScore,
)
from koii_p2p.gossip.refusals import Refusal

PAGE = (Path(__file__).parents[2] / "docs" / "gossip.md").read_text()


def test_every_refusal_is_on_the_page_with_its_cost() -> None:
    said = dict(re.findall(r'    (\w+) = "\w+"\n    """(.*?)"""', inspect.getsource(Refusal), re.DOTALL))
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert {refusal.value: " ".join(said[refusal.name].split()) for refusal in Refusal} == {
        name: text for name, text in rows.items() if name in {refusal.value for refusal in Refusal}
    }


@pytest.mark.parametrize(
    ("heading", "values"),
    [
        (r"Degrees\*\*", Degrees()),
        (r"\(`GossipParameters`\)", GossipParameters()),
        (r"\(`TopicScore`\)", TopicScore()),
        (r"\(`ScoreParameters`\)", ScoreParameters()),
        (r"Thresholds\*\*", Thresholds()),
        (r"Bounds\*\*", Bounds()),
    ],
)
def test_every_default_is_on_the_page(heading: str, values: object) -> None:
    [paragraph] = re.findall(rf"^\*\*.*{heading}:([^:]*?)\.\n\n", PAGE, re.MULTILINE)
    shown = dict(re.findall(r"`(\w+)` ([\w.-]+)", " ".join(paragraph.split())))
    expected = {}
    for one in fields(values):  # type: ignore[arg-type]
        value = getattr(values, one.name)
        if isinstance(value, bool):
            expected[one.name] = "yes" if value else "no"
        elif isinstance(value, int | float):
            expected[one.name] = f"{value:g}" if isinstance(value, float) else str(value)
    assert shown == expected
