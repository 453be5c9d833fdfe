from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from koii_p2p.node.package_store import DATA, PackageStore
from koii_p2p.storage.faults import StorageError, StorageFull
from koii_p2p.tasks.package import pack
from tests.e2e.test_full_disk import small_disk  # noqa: F401 - a fixture

PACKAGE = pack(
    {"config-task.yml": b"task_name: t\n", "task.py": b"pass\n", "lib/a/b.py": b"b", "lib/c.py": b"c"}
)


def listing(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_what_is_kept_is_there_whole_and_for_the_owner_only(tmp_path: Path) -> None:
    store = PackageStore(tmp_path / "packages")
    assert store.whole(PACKAGE.cid) is None
    assert store.cids() == ()
    folder = store.keep(PACKAGE)
    assert folder == store.folder(PACKAGE.cid)
    assert (folder / "lib" / "a" / "b.py").read_bytes() == b"b"
    assert store.whole(PACKAGE.cid) == PACKAGE
    assert store.cids() == (PACKAGE.cid,)
    assert store.read(PACKAGE.cid, 3, 5) == PACKAGE.data[3:8]
    assert {path.stat().st_mode & 0o077 for path in folder.rglob("*")} == {0}
    assert listing(tmp_path / "packages") == [PACKAGE.name]


def test_keeping_it_again_changes_nothing(tmp_path: Path) -> None:
    store = PackageStore(tmp_path)
    before = (store.keep(PACKAGE) / "task.py").stat()
    assert (store.keep(PACKAGE) / "task.py").stat().st_ino == before.st_ino
    assert listing(tmp_path) == [PACKAGE.name]


@pytest.mark.parametrize(
    "damage", ["file changed", "file added", "file gone", "bytes changed", "bytes gone", "link"]
)
def test_a_damaged_package_is_not_used_and_can_be_kept_anew(damage: str, tmp_path: Path) -> None:
    store = PackageStore(tmp_path)
    folder = store.keep(PACKAGE)
    data = folder.parent / DATA
    match damage:
        case "file changed":
            (folder / "task.py").write_bytes(b"evil\n")
        case "file added":
            (folder / "json.py").write_bytes(b"evil\n")
        case "file gone":
            (folder / "lib" / "c.py").unlink()
        case "bytes changed":
            data.write_bytes(PACKAGE.data + b"\0")
        case "bytes gone":
            data.unlink()
        case _:
            (folder / "task.py").unlink()
            (folder / "task.py").symlink_to("/etc/hostname")
    assert store.whole(PACKAGE.cid) is None
    assert listing(tmp_path) == []
    store.keep(PACKAGE)
    assert store.whole(PACKAGE.cid) == PACKAGE


def test_what_python_caches_beside_the_code_is_no_damage(tmp_path: Path) -> None:
    store = PackageStore(tmp_path)
    cache = store.keep(PACKAGE) / "__pycache__"
    cache.mkdir()
    (cache / "task.cpython-311.pyc").write_bytes(b"x")
    assert store.whole(PACKAGE.cid) == PACKAGE


KILLED_AT_EACH_STEP = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from koii_p2p.node.package_store import PackageStore
    from koii_p2p.tasks.package import unpack

    package = unpack(bytes.fromhex(sys.argv[2]))

    def dying(step, call):
        def wrapped(*arguments, **named):
            global left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)
        return wrapped

    step = 0
    while True:
        root = Path(sys.argv[1]) / str(step)
        child = os.fork()
        if child == 0:
            left = step
            for name in ("open", "mkdir", "rename", "fsync"):
                setattr(os, name, dying(step, getattr(os, name)))
            PackageStore(root).keep(package)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(step, "killed" if os.WIFSIGNALED(status) else "done", flush=True)
        if not os.WIFSIGNALED(status):
            break
        step += 1
    """
)


def test_a_process_that_is_killed_at_any_step_leaves_nothing_half(tmp_path: Path) -> None:
    line = [sys.executable, "-c", KILLED_AT_EACH_STEP, str(tmp_path), PACKAGE.data.hex()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    steps = [words.split() for words in done.stdout.splitlines()]
    assert steps[-1][1] == "done"
    assert len(steps) > 20, "every folder and file is a step, and so is making each durable"
    seen = set()
    for number, _ in steps:
        root = tmp_path / number
        store = PackageStore(root)
        there = root.exists() and PACKAGE.name in listing(root)
        seen.add(there)
        if there:
            assert store.whole(PACKAGE.cid) == PACKAGE
        store.keep(PACKAGE)
        assert store.whole(PACKAGE.cid) == PACKAGE
        assert listing(root) == [PACKAGE.name], "what was left unfinished is gone"
    assert seen == {True, False}


def test_what_another_process_is_about_to_finish_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / f".unfinished-{os.getppid()}-00").mkdir()
    PackageStore(tmp_path).keep(PACKAGE)
    assert listing(tmp_path) == [f".unfinished-{os.getppid()}-00", PACKAGE.name]


def test_a_full_disk_is_said_and_leaves_nothing(small_disk: Path) -> None:  # noqa: F811 - the fixture
    large = pack({**PACKAGE.files, "big": bytes(8 * 1024 * 1024 - 4096)})
    store = PackageStore(small_disk / "packages")
    (small_disk / "filling").write_bytes(bytes(1024 * 1024))
    with pytest.raises(StorageFull, match="is full"):
        store.keep(large)
    assert listing(small_disk / "packages") == []
    (small_disk / "filling").unlink()
    assert store.keep(PACKAGE).is_dir()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "packages").write_text("in the way")
    with pytest.raises(StorageError, match="could not be kept"):
        PackageStore(tmp_path / "packages").keep(PACKAGE)
    with pytest.raises(StorageError, match="cannot be read"):
        PackageStore(tmp_path).read(PACKAGE.cid, 0, 1)
