"""`docs/dht.md` says what the code says: every refusal with its meaning, every parameter with its default."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from koii_p2p.kademlia.parameters import Bounds, KademliaParameters
from koii_p2p.kademlia.refusals import Refusal

PAGE = (Path(__file__).parents[2] / "docs" / "dht.md").read_text()


def test_every_refusal_is_on_the_page_with_its_meaning() -> None:
    said = dict(re.findall(r'    (\w+) = "\w+"\n    """(.*?)"""', inspect.getsource(Refusal), re.DOTALL))
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert rows == {refusal.value: " ".join(said[refusal.name].split()) for refusal in Refusal}


@pytest.mark.parametrize(
    ("heading", "values"), [(r"\(`KademliaParameters`\)", KademliaParameters()), (r"Bounds\*\*", Bounds())]
)
def test_every_default_is_on_the_page(heading: str, values: object) -> None:
    [paragraph] = re.findall(rf"^\*\*.*{heading}:([^:]*?)\.\n\n", PAGE, re.MULTILINE)
    shown = dict(re.findall(r"`(\w+)` (\d+)", " ".join(paragraph.split())))
    assert shown == {
        one.name: str(value)
        for one in fields(values)  # type: ignore[arg-type]
        if isinstance(value := getattr(values, one.name), int)
    }
