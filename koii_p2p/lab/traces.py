"""How records spread among real nodes of one machine, by what each noted (`join --trace`): as a simulation counts it.

Traces become rows of the table `messages`, by the code that a simulation's observer makes them with, so that metrics
of both are the same numbers of two nets.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Final

from koii_p2p.errors import CheckFailed, ConfigurationError
from koii_p2p.lab.observer import Observer, Spread
from koii_p2p.lab.result import Frame
from koii_p2p.limits import Limits
from koii_p2p.records.sightings import MOST_LINE_BYTES, Sighting, decode_sighting

_MOST_BYTES: Final = Limits().trace_bytes


def read_trace(file: Path) -> Iterator[Sighting]:
    """The sightings of a trace, in the order in which they were noted. Raises `ConfigurationError` for no trace.

    A last line without its end is passed over: its node was killed, or still writes.
    """
    what = f"The trace {file} cannot be used."
    try:
        with file.open("rb") as stream:
            read = 0
            while line := stream.readline(MOST_LINE_BYTES + 1):
                read += len(line)
                if read > _MOST_BYTES:
                    raise ValueError(f"it has more than {_MOST_BYTES} bytes")
                if line.endswith(b"\n") or len(line) > MOST_LINE_BYTES:
                    yield decode_sighting(line)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            what, f"{error}.", "Name a file that `koii-p2p join --trace` wrote."
        ) from error


def messages_of(traces: Sequence[Path], rounds: Container[int]) -> Frame:
    """The table `messages` (`lab.result`) of these rounds; nodes have the numbers of their traces.

    A record begins to spread when its author first published it, and has reached another node when that first noted
    it, however it came. Every other node counts as running. What no trace says that its node signed is left out.
    Times are Unix time: `sent_us` is not the time since the start of a run.

    Raises `ConfigurationError` for what is no trace, `CheckFailed` if the machine's clock was set meanwhile.
    """
    observer = Observer()
    heard: dict[bytes, dict[int, int]] = {}
    for node, file in enumerate(traces):
        for sighting in read_trace(file):
            if sighting.round not in rounds:
                continue
            if sighting.way is not None:
                heard.setdefault(sighting.record_id, {}).setdefault(node, sighting.us)
            elif sighting.record_id not in observer.travelling:
                observer.travelling[sighting.record_id] = Spread(
                    sighting.round, sighting.kind, node, sighting.size, sighting.us, len(traces) - 1
                )
    for record_id, spread in observer.travelling.items():
        for node, us in heard.get(record_id, {}).items():
            if us < spread.sent:
                raise CheckFailed(
                    "How records spread cannot be told.",
                    f"By their traces, node {node} heard a record {spread.sent - us} us before node {spread.author} "
                    "signed it: the clock was set, or they ran on different machines.",
                    "Run the testnet again.",
                )
            spread.delays.append(us - spread.sent)
    observer.close(before=1 + max((spread.round for spread in observer.travelling.values()), default=0))
    return observer.messages
