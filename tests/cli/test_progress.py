"""How far a command is, for who reads it in a pipe."""

from __future__ import annotations

import pytest

from koii_p2p.cli import progress as shown
from koii_p2p.cli.progress import progress


def test_bytes_and_documents_are_said_with_their_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("get", 4096) as moved:
        moved(2048)
        moved(2048)
    with progress("put", None, "documents") as moved:
        moved(500)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2, "so little takes no time"
    assert lines[0].startswith("get: 4.0 KiB of 4.0 KiB, ")
    assert lines[1].startswith("put: 500 documents, ")
    assert all(line.endswith("/s") for line in lines)


def test_what_takes_long_says_so_meanwhile(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "LINE_SECONDS", 0.0)
    with progress("put", 2, "documents") as moved:
        moved(1)
        assert "1 documents of 2 documents" in capsys.readouterr().err
