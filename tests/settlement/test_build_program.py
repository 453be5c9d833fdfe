"""The committed program is what its source gives, byte for byte; and the linker refuses what it cannot link."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from scripts.build_program import PROGRAM, BuildError, build, compile_and_link, compiler_missing, header, main
from scripts.sbf_link import TEXT_OFFSET, LinkError, link


def require_compiler() -> None:
    missing = compiler_missing()
    if missing is not None:
        print(f"not rebuilt: {missing}")
        pytest.skip(missing)


def test_the_header_is_what_the_tables_give() -> None:
    assert (PROGRAM / "layout.h").read_text() == header(), "run scripts/build_program.py"


def test_a_rebuild_gives_the_committed_bytes() -> None:
    require_compiler()
    first = build()
    assert first == build()
    assert first == (PROGRAM / "settlement.so").read_bytes(), "run scripts/build_program.py"


def test_check_mode_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    require_compiler()
    monkeypatch.setattr("sys.argv", ["build_program.py", "--check"])
    assert main() == 0
    assert "up to date" in capsys.readouterr().out


def test_no_path_of_the_builder_is_in_the_program() -> None:
    data = (PROGRAM / "settlement.so").read_bytes()
    assert b"program.c" not in data
    assert b"/tmp" not in data
    assert len(data) < 32 * 1024


def test_the_program_is_a_shared_bpf_object() -> None:
    data = (PROGRAM / "settlement.so").read_bytes()
    kind, machine = struct.unpack_from("<HH", data, 16)
    (entry,) = struct.unpack_from("<Q", data, 24)
    assert (data[:4], kind, machine) == (b"\x7fELF", 3, 247)
    assert entry >= TEXT_OFFSET


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(100), b"not an object" * 10])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(LinkError):
        link(data)


def test_a_linked_program_is_not_linked_again() -> None:
    with pytest.raises(LinkError, match="relocatable"):
        link((PROGRAM / "settlement.so").read_bytes())


def test_the_compiler_names_what_it_cannot_build(tmp_path: Path) -> None:
    require_compiler()
    source = tmp_path / "bad.c"
    source.write_text(
        'int written = 1; __attribute__((section(".text"))) int entrypoint(void) { return written++; }'
    )
    with pytest.raises(BuildError, match="writable data"):
        compile_and_link(source)
    source.write_text("not C")
    with pytest.raises(BuildError, match="failed"):
        compile_and_link(source)
