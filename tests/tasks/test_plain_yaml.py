from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.tasks.plain_yaml import (
    DEEPEST,
    MOST_BYTES,
    MOST_VALUES,
    Scalar,
    Sequence,
    Table,
    YamlError,
    read_table,
)


def test_values_keep_their_text_quotes_and_lines() -> None:
    found = read_table(
        b"# a remark\na: 1.90\nb: 'no'\nc: no  # a remark\nd:\n  - x\n  - e: |\n      two\n      lines\nf:\n"
    )
    assert found.entries == {
        "a": Scalar("1.90", False, 2),
        "b": Scalar("no", True, 3),
        "c": Scalar("no", False, 4),
        "d": Sequence((Scalar("x", False, 6), Table({"e": Scalar("two\nlines\n", True, 7)}, 7)), 6),
        "f": Scalar("", False, 10),
    }
    assert list(found.entries) == ["a", "b", "c", "d", "f"]
    nothing = found.entries["f"]
    assert isinstance(nothing, Scalar)
    assert nothing.is_null
    assert not Scalar("", True, 1).is_null, "empty text is text"


@pytest.mark.parametrize("data", [b"", b"# only a remark\n", b"---\n...\n", b"~", b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_empty_mapping(data: bytes) -> None:
    assert read_table(data).entries == {}


@pytest.mark.parametrize(
    ("data", "why", "line"),
    [
        (b"a: 1\nb: &x 1\n", "anchor", 2),
        (b"a: *x\n", "alias", 1),
        (b"a: 1\nb: !!str 1\n", "tag", 2),
        (b"a: !!python/object/apply:os.system ['true']\n", "tag", 1),
        (b"a: 1\n<<: {b: 2}\n", "merge key", 2),
        (b"a: 1\nb: 2\na: 3\n", "a is given a second time", 3),
        (b"a: 1\n'a': 3\n", "a is given a second time", 2),
        (b"a:\n  b: 1\n  b: 1\n", "b is given a second time", 3),
        (b"- a\n", "not a mapping", 1),
        (b"text\n", "not a mapping", 1),
        (b"? [a]\n: 1\n", "a name is a list", 1),
        (b"a: 1\n---\nb: 2\n", "second document", 2),
        (b"%YAML 1.1\n---\na: 1\n", "directive", 1),
        (b"a: 1\n  b: 2\n", "not YAML: mapping values are not allowed here", 2),
        (b"a: [1,\n", "not YAML", 2),
        (b"a: 1\n\tb: 2\n", "not YAML", 2),
        (b'a: 1\nb: "\\ud800"\n', "surrogate", 2),
        (b"a: \x07\n", "special characters are not allowed", None),
        (b"a: 1\nb: \xff\n", "not UTF-8", 2),
        (b"a: 1\n" + b"#" * MOST_BYTES, "more than the 65536", None),
        (b"a: " + b"[" * (DEEPEST + 1), f"deeper than {DEEPEST}", 1),
        (b"{" * 30_000, f"deeper than {DEEPEST}", 1),
        (b"a: [" + b"1," * MOST_VALUES + b"]", f"more than {MOST_VALUES} values", 1),
    ],
)
def test_what_settings_do_without_is_refused_with_its_line(data: bytes, why: str, line: int | None) -> None:
    with pytest.raises(YamlError) as caught:
        read_table(data)
    assert why in caught.value.why
    assert caught.value.line == line
    assert line is None or str(caught.value).startswith(f"line {line}: ")


def test_a_bomb_of_aliases_costs_nothing() -> None:
    levels = [b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n"]
    levels += [
        b"a%d: &a%d [%s]\n" % (level, level, b",".join([b"*a%d" % (level - 1)] * 9)) for level in range(1, 30)
    ]
    with pytest.raises(YamlError, match="anchor") as caught:
        read_table(b"".join(levels))
    assert caught.value.line == 1, "before any of its 9^30 values is made"


@given(
    st.binary(max_size=200) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@,?~<\n\t 01.", max_size=80).map(str.encode)
)
def test_whatever_bytes_come_they_are_a_mapping_or_refused(data: bytes) -> None:
    try:
        found = read_table(data)
    except YamlError:
        return
    assert isinstance(found, Table)
