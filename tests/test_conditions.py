"""What links are made to be like: the file, and which link is whose."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.conditions import (
    CUTS,
    PLAIN,
    RESET,
    Conditions,
    Link,
    decode_conditions,
    encode_conditions,
    read_conditions,
)
from koii_p2p.errors import ConfigurationError

LINKS = st.builds(
    Link,
    latency_ms=st.integers(50, 500),
    jitter_ms=st.integers(0, 50),
    loss=st.floats(0, 0.5),
    bandwidth_kib=st.none() | st.integers(1, 1000),
)
KEYS = st.text("abcdef", min_size=1, max_size=6)


@given(
    LINKS,
    st.dictionaries(KEYS, LINKS, max_size=3),
    st.sets(KEYS, max_size=4),
    st.sampled_from(CUTS),
    st.integers(0, 9),
)
def test_what_is_written_is_read_back(
    link: Link, peers: dict[str, Link], group: set[str], cut: str, seed: int
) -> None:
    made = Conditions(link, peers, (frozenset(group),) if group else (), cut, seed)
    assert decode_conditions(encode_conditions(made)) == made


def test_what_is_left_out_is_as_fast_as_this_machine() -> None:
    assert decode_conditions(b"{}") == Conditions()
    assert Conditions().between("a", "b") == PLAIN
    assert not Conditions().separates("a", "b")


def test_a_node_that_is_far_away_is_far_from_everybody_and_everybody_from_it() -> None:
    far, usual = Link(latency_ms=300), Link(latency_ms=20)
    conditions = Conditions(usual, {"far": far})
    assert conditions.between("a", "far") == conditions.between("far", "a") == far
    assert conditions.between("far", None) == far
    assert conditions.between("a", "b") == conditions.between("a", None) == usual


def test_a_cut_is_between_groups_and_leaves_alone_who_is_in_none() -> None:
    cut = Conditions(groups=(frozenset("ab"), frozenset("cd")))
    separated = {(one, other) for one in "abcde" for other in "abcde" if cut.separates(one, other)}
    assert separated == {*product("ab", "cd"), *product("cd", "ab")}
    assert not cut.separates("a", None)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"lnk": {}}, "`lnk` of the file does not exist"),
        ({"link": {"latency": 5}}, "`latency` of a link does not exist"),
        ({"link": {"latency_ms": -1}}, "latency_ms = -1"),
        ({"link": {"latency_ms": 1.5}}, "latency_ms = 1.5"),
        ({"link": {"latency_ms": True}}, "latency_ms = True"),
        ({"link": {"latency_ms": 10, "jitter_ms": 11}}, "more than latency_ms"),
        ({"link": {"loss": 0.6}}, "loss = 0.6"),
        ({"link": {"loss": "much"}}, "loss = 'much'"),
        ({"link": {"bandwidth_kib": 0}}, "bandwidth_kib = 0"),
        ({"link": 5}, "not an object"),
        ({"peers": []}, "`peers`"),
        ({"groups": [["a"], ["a"]]}, "in two groups"),
        ({"groups": ["a"]}, "list of lists"),
        ({"groups": [["a" * 45]]}, "no keys"),
        ({"groups": [[str(n) for n in range(2049)]]}, "too many"),
        ({"cut": "bend"}, "cut = 'bend'"),
        ({"seed": -1}, "seed = -1"),
        ([], "not an object"),
    ],
)
def test_what_is_not_possible_is_said(value: object, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        decode_conditions(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("data", "words"), [(b"{", "not JSON"), (b"[" * 200_000, "not JSON"), (b" " * 300_000, "more than")]
)
def test_bytes_that_are_no_conditions(data: bytes, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        decode_conditions(data)


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_bytes(encode_conditions(Conditions(cut=RESET)))
    assert read_conditions(tmp_path / "one.json").cut == RESET
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_conditions(tmp_path / "none.json")


def test_links_are_said_in_words() -> None:
    assert str(PLAIN) == "as fast as this machine"
    assert str(Link(100, 10, 0.01, 256)) == "latency 100 ms ± 10, loss 0.01, 256 KiB/s"
