from __future__ import annotations

from dataclasses import replace

import structlog
import trio
import trio.testing

from koii_p2p.limits import Limits
from koii_p2p.tasks.output import OutputLog, printable

LIMITS = replace(Limits(), worker_output_bytes=100, worker_line_bytes=40, worker_output_window_seconds=10.0)


def test_printable_text_has_one_line_and_no_control_characters() -> None:
    assert printable("a\x1b[31mb\nc\x07", 100) == "a [31mb c "
    assert printable("x" * 50, 10) == "x" * 9 + "…"


async def test_lines_are_logged_and_a_flood_is_counted(autojump_clock: trio.testing.MockClock) -> None:
    with structlog.testing.capture_logs() as logs:
        output = OutputLog(structlog.get_logger(), LIMITS)
        send, receive = trio.testing.memory_stream_one_way_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.copy, receive, "stdout")
            await send.send_all(b"first\nsec")
            await send.send_all(b"ond\n\n\xff bad utf-8\n")
            await trio.testing.wait_all_tasks_blocked()
            await send.send_all((b"x" * 39 + b"\n") * 6)
            await trio.testing.wait_all_tasks_blocked()
            dropped = output.dropped_bytes
            await trio.sleep(10)  # a new window
            await send.send_all(b"after\nend without newline")
            await send.aclose()
    lines = [entry["line"] for entry in logs if entry["event"] == "task_output"]
    assert lines[:3] == ["first", "second", "\ufffd bad utf-8"]
    assert lines[-2:] == ["after", "end without newline"]
    assert lines.count("x" * 39) == 2
    assert dropped == 4 * 39
    assert [entry["event"] for entry in logs].count("task_output_dropped") == 1
