"""Write the table of metrics in docs/operating.md.

python scripts/make_metrics_page.py            # writes it
python scripts/make_metrics_page.py --check    # only says whether it is up to date
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from koii_p2p.node.metrics import metric_table

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "operating.md"
BEGIN: Final = "<!-- metrics: made by scripts/make_metrics_page.py -->"
END: Final = "<!-- end of metrics -->"


def metrics() -> str:
    """The table, one metric a line."""
    rows = [f"| `{row.name}` | {row.kind} | {', '.join(row.labels)} | {row.help} |" for row in metric_table()]
    return "\n".join(("| metric | type | labels | what it is |", "|---|---|---|---|", *rows))


def page(text: str) -> str:
    """The page with its table as it should be. Raises `ValueError` if it has no place for it."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError("the page has no place for the metrics")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n\n{metrics()}\n\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description="Write the table of metrics in docs/operating.md.")
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args()
    old = PAGE.read_text()
    new = page(old)
    if arguments.check:
        print("up to date" if old == new else "docs/operating.md differs: run scripts/make_metrics_page.py")
        return 0 if old == new else 1
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
