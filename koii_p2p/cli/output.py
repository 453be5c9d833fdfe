"""What commands print: results on stdout as a table or as JSON, errors and logs on stderr."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import structlog
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from koii_p2p.amounts import ROE_PER_KOII
from koii_p2p.cli.log_file import LogFile
from koii_p2p.cli.main import OutputFormat


def print_result(data: object, human: RenderableType, form: OutputFormat) -> None:
    """Print a result: `human` on a terminal or in a pipe, or `data` (what `json` can write) with --output json."""
    if form is OutputFormat.JSON:
        sys.stdout.write(f"{_json(data)}\n")
        return
    # Keys and paths are for copying: no line is broken or cut where there is no terminal.
    console = Console(soft_wrap=True) if sys.stdout.isatty() else Console(width=10_000, soft_wrap=True)
    console.print(human, highlight=False)


def _json(data: object) -> str:
    """JSON in which everything that a terminal could take for a command is escaped."""
    lines = json.dumps(data, indent=2, ensure_ascii=False).split("\n")
    return "\n".join(
        line
        if line.isprintable()
        else "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in line)
        for line in lines
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table with a header line; cells are shown as they are, whatever markup they seem to hold."""
    made = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made


def pairs(values: Mapping[str, object]) -> Table:
    """Names and values, one pair a line."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in values.items():
        made.add_row(name, Text(str(value)))
    return made


def plain(text: str) -> str:
    """What a stranger says, for a terminal: nothing in it moves the cursor, hides what follows or begins a line."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


def duration(seconds: float) -> str:
    """A time in its two largest units: 200.4 -> "3 min 20 s"."""
    left = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or parts or length == 1:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def size(count: int) -> str:
    """A number of bytes in the largest unit that it reaches: 1572864 -> "1.5 MiB"."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count} B"


def koii(roe: int) -> str:
    """An amount in Roe as KOII, exactly: 1900000000 -> "1.9 KOII"."""
    whole, part = divmod(abs(roe), ROE_PER_KOII)
    digits = f"{whole}.{part:09d}".rstrip("0").rstrip(".")
    return f"{'-' if roe < 0 else ''}{digits} KOII"


def print_error(
    what: str, why: str, remedy: str, code: int, *, as_json: bool, traceback_of: BaseException | None
) -> None:
    """Print an error on stderr: three sentences, or one JSON object; with the traceback if one is given."""
    trace = "".join(traceback.format_exception(traceback_of)) if traceback_of is not None else ""
    if as_json:
        error = {"what": what, "why": why, "remedy": remedy, "exit_code": code}
        if trace:
            error["traceback"] = trace
        sys.stderr.write(json.dumps({"error": error}, ensure_ascii=False) + "\n")
        return
    sys.stderr.write(trace)
    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("error: ", "bold red"), (what, "bold")))
    console.print(Text(f"  {why}"))
    console.print(Text(f"  {remedy}"))


def configure_logs(verbosity: int, level: str = "info", file: Path | None = None) -> None:
    """Send logs to stderr from `level` up; -v shows debug lines of ours, -vv those of libraries as well.

    With `file` they are kept there as well, as lines of JSON.
    """
    lowest = logging.DEBUG if verbosity else logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(() if file is None else (LogFile(file),)),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
    )
    logging.basicConfig(
        stream=sys.stderr, level=logging.DEBUG if verbosity > 1 else logging.WARNING, force=True
    )
    # It writes down every address in full, and that of an RPC node may hold a provider's key.
    logging.getLogger("httpx").setLevel(logging.WARNING)
