from __future__ import annotations

from pathlib import Path

import pytest

from koii_p2p.tasks.folder import OutsideFolder, QuotaExceeded, TaskFolder, folder_use


@pytest.fixture
def fs(tmp_path: Path) -> TaskFolder:
    (tmp_path / "work").mkdir()
    return TaskFolder(tmp_path / "work", most_bytes=100, most_files=5)


async def test_files_are_written_read_listed_and_removed(fs: TaskFolder) -> None:
    await fs.write_text("notes/today.txt", "grüße")
    await fs.append_bytes("notes/today.txt", b"!")
    assert await fs.read_text("notes/today.txt") == "grüße!"
    assert await fs.read_bytes("notes/today.txt") == "grüße!".encode()
    await fs.make_folder("empty")
    assert await fs.list() == ["empty", "notes"]
    await fs.rename("notes/today.txt", "notes/old.txt")
    assert await fs.list("notes") == ["old.txt"]
    assert (await fs.exists("notes/old.txt"), await fs.exists("notes/today.txt")) == (True, False)
    await fs.remove("notes/old.txt")
    await fs.remove("empty")
    assert await fs.used() == (0, 1)  # the folder `notes` is left
    with pytest.raises(FileNotFoundError):
        await fs.read_bytes("notes/old.txt")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "link/x", ".."])
async def test_nothing_leads_out_of_the_folder(fs: TaskFolder, tmp_path: Path, name: str) -> None:
    fs.path("link").symlink_to(tmp_path)
    for act in (fs.read_bytes, fs.remove, fs.list, fs.exists, fs.make_folder):
        with pytest.raises(OutsideFolder):
            await act(name)
    with pytest.raises(OutsideFolder):
        await fs.write_bytes(name, b"x")
    assert not (tmp_path / "outside").exists()


async def test_the_quota_counts_bytes_and_files(fs: TaskFolder) -> None:
    await fs.write_bytes("a", bytes(100))
    with pytest.raises(QuotaExceeded, match="101 bytes, and 100 are allowed"):
        await fs.append_bytes("a", b"x")
    with pytest.raises(QuotaExceeded):
        await fs.write_bytes("b", b"x")
    await fs.write_bytes("a", bytes(50))  # what it replaces does not count
    for name in "bcde":
        await fs.write_bytes(name, b"")
    with pytest.raises(QuotaExceeded, match="5 files"):
        await fs.write_bytes("f", b"")
    await fs.write_bytes("e", b"still")


def test_counting_stops_at_the_limit_and_follows_no_link(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / str(number)).write_bytes(b"xy")
    assert folder_use(tmp_path, most_files=100) == (20, 10)
    assert folder_use(tmp_path, most_files=3)[1] == 4
    (tmp_path / "loop").symlink_to(tmp_path)
    assert folder_use(tmp_path, most_files=100)[1] == 11
    assert folder_use(tmp_path / "absent", most_files=3) == (0, 0)
