"""Write the tables of docs/data.md: the levels, what each loses and when, and what shards and data are refused for.

    python scripts/make_data_page.py            # writes them
    python scripts/make_data_page.py --check    # only says whether they are up to date

Probabilities are computed exactly and rounded to two digits. The text around the tables is written by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Final

from koii_p2p.data.blob import Verdict
from koii_p2p.data.durability import (
    Level,
    loss_at_worst,
    loss_of_some,
    loss_probability,
    manifest_code,
    repair_margin,
    spread_evenly,
)
from koii_p2p.data.erasure import Code
from koii_p2p.data.manifest import BLOCK_BYTES, largest_blob
from koii_p2p.data.reasons import DataReason

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "data.md"
LOSSES: Final = tuple(Fraction(tenths, 1000) for tenths in (1, 10, 50, 100, 200, 300, 500))
HOLDERS: Final = (3, 5, 8, 12, 24, 32)
SMALL_LOSS: Final = Fraction(1, 10)
NETS: Final = (12, 24, 50, 100, 1000)
KILLED: Final = Fraction(3, 10)
LIARS: Final = 2


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rounded(probability: Fraction) -> str:
    return f"{float(probability):.1e}" if probability else "0"


def _percent(probability: Fraction) -> str:
    return f"{float(100 * probability):g}%"


def _cost(code: Code) -> str:
    return f"{code.shards / code.needed:g}x"


def levels() -> str:
    """Each level: numbers of shards, cost, when it is repaired, copies of the manifest, the largest blob."""
    return _table(
        (
            "level",
            "code",
            "stored",
            "holders that may be lost",
            "repaired below",
            "copies of the manifest",
            "largest",
        ),
        (
            (
                level.title,
                str(code := level.code),
                _cost(code),
                str(code.shards - code.needed),
                f"{code.needed + repair_margin(code)} live" if code.shards > 1 else "never",
                str(manifest_code(code).shards),
                f"{largest_blob(code, BLOCK_BYTES) // BLOCK_BYTES} MiB",
            )
            for level in Level
        ),
    )


def losses() -> str:
    """Loss of a block within one interval, level by level, each followed by as many copies as it costs."""
    rows: list[list[str]] = []
    for level in Level:
        code = level.code
        rows.append([f"**{level.title}**", str(code), _cost(code), *_all(code, loss_probability)])
        if code.shards > 1:
            copies = Code(1, code.shards // code.needed)
            rows.append(
                [f"{copies.shards} copies", str(copies), _cost(copies), *_all(copies, loss_probability)]
            )
    return _table(("", "code", "stored", *(_percent(loss) for loss in LOSSES)), rows)


def worst_losses() -> str:
    """The same of a block that is at its margin and not repaired yet."""
    rows = (
        [level.title, str(level.code.needed + repair_margin(level.code)), *_all(level.code, loss_at_worst)]
        for level in Level
        if level.code.shards > 1
    )
    return _table(("level", "live shards", *(_percent(loss) for loss in LOSSES)), rows)


def small_rosters() -> str:
    """Loss of a block when few nodes share its shards."""
    rows = (
        [
            level.title,
            *(
                _rounded(loss_probability(level.code, SMALL_LOSS, spread_evenly(level.code.shards, holders)))
                for holders in HOLDERS
            ),
        ]
        for level in Level
        if level.code.shards > 1
    )
    return _table(("level", *(f"{holders} nodes" for holders in HOLDERS)), rows)


def killed_and_liars() -> str:
    """Loss of a block when a share of all nodes is killed at once, and when two more send wrong bytes besides."""
    rows = (
        [level.title, *(_rounded(loss_of_some(level.code, nodes, lost)) for nodes, lost in _killed())]
        for level in Level
    )
    names = (f"{lost} of {nodes}" for nodes, lost in _killed())
    return _table(("level", *names), rows)


def _killed() -> list[tuple[int, int]]:
    """So many nodes, and how many of them are lost: the killed (rounded up), then with the liars."""
    return [(nodes, -(-nodes * KILLED // 1) + liars) for nodes in NETS for liars in (0, LIARS)]


def verdicts() -> str:
    """What a decoder says of a shard."""
    return _table(("verdict", "meaning"), ((verdict.value, str(verdict.__doc__)) for verdict in Verdict))


def reasons() -> str:
    """Why data is refused."""
    return _table(("reason", "meaning"), ((reason.value, str(reason.__doc__)) for reason in DataReason))


def _all(code: Code, formula: Callable[[Code, Fraction], Fraction]) -> list[str]:
    return [_rounded(formula(code, loss)) for loss in LOSSES]


TABLES: Final[dict[str, Callable[[], str]]] = {
    "levels": levels,
    "losses": losses,
    "worst losses": worst_losses,
    "small rosters": small_rosters,
    "killed and liars": killed_and_liars,
    "verdicts": verdicts,
    "reasons": reasons,
}


def page(text: str) -> str:
    """The page with every table made anew. Raises `ValueError` if the page lacks the place for one."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}: made by scripts/make_data_page.py -->", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"the page has no place for {name}")
        head, rest = text.split(begin)
        text = f"{head}{begin}\n\n{make()}\n\n{end}{rest.split(end)[1]}"
    return text


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description="Write the tables of docs/data.md.")
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args()
    old = PAGE.read_text()
    new = page(old)
    if arguments.check:
        print("up to date" if old == new else "docs/data.md differs: run scripts/make_data_page.py")
        return 0 if old == new else 1
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
