from __future__ import annotations

import json
import os
from pathlib import Path

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.records.cid import cid_of, cid_to_text
from koii_p2p.records.keys import SecretKey
from koii_p2p.tasks import package as rules
from koii_p2p.tasks.package import (
    MOST_BYTES,
    MOST_FILES,
    MOST_PARTS,
    MOST_PATH_BYTES,
    Package,
    PackageError,
    PackageReason,
    pack,
    unpack,
)
from koii_p2p.tasks.package_folder import pack_folder, write_folder

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello_world"
TASK = {"config-task.yml": b"task_name: t\n", "task.py": b"pass\n"}

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,7}", fullmatch=True).filter(
    lambda name: not rules.is_left_out(name)
)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
trees = st.dictionaries(paths, st.binary(max_size=50), max_size=6).map(lambda files: {**TASK, **files})


def packed(files: dict[str, bytes]) -> Package | None:
    """The package, or None where names clash."""
    try:
        return pack(files)
    except PackageError as error:
        if error.reason is not PackageReason.SAME_NAME:
            raise
        return None


def reason_of(data: bytes) -> PackageReason | None:
    try:
        unpack(data)
    except PackageError as error:
        return error.reason
    return None


def encoded(*files: tuple[object, object], version: object = 1) -> bytes:
    return cbor2.dumps({0: version, 1: [list(file) for file in files]}, canonical=True)


@given(trees)
def test_what_is_packed_is_unpacked(files: dict[str, bytes]) -> None:
    found = packed(files)
    if found is not None:
        again = unpack(found.data)
        assert again == found
        assert dict(again.files) == files
        assert list(again.files) == sorted(files)


@given(trees, st.randoms(use_true_random=False))
def test_the_order_in_which_files_are_found_changes_nothing(files: dict[str, bytes], chance: object) -> None:
    found = packed(files)
    shuffled = list(files.items())
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert packed(dict(shuffled)) == found


@given(st.binary(max_size=200))
def test_any_bytes_are_a_package_or_refused(data: bytes) -> None:
    assert reason_of(data) is not None


@settings(max_examples=200)
@given(trees, st.data())
def test_bytes_that_were_changed_are_another_package_or_none(
    files: dict[str, bytes], data: st.DataObject
) -> None:
    found = packed(files)
    if found is None:
        return
    changed = bytearray(found.data)
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        other = unpack(bytes(changed))
    except PackageError:
        return
    assert other.files != found.files
    assert pack(other.files).data == bytes(changed), "one folder has one package"


@settings(max_examples=50, deadline=None)
@given(files=trees)
def test_a_folder_has_the_package_that_it_was_written_from(
    files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = packed(files)
    if found is None:
        return
    folder = tmp_path_factory.mktemp("tree") / "task"
    write_folder(found, folder)
    assert pack_folder(folder).package == found
    modes = {path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}
    assert modes == {0o700, 0o600}


def test_the_bytes_of_an_example_are_the_same_on_every_machine() -> None:
    """If this CID changes with no change of the example's files, packages of others are no longer what they were."""
    files = {
        "config-task.yml": b"task_name: hello\n",
        "task.py": b"print(1)\n",
        "lib/a.py": b"",
        "README.md": b"#\n",
    }
    found = pack(files)
    by_hand = (
        b"\xa2\x00\x01\x01\x84"
        b"\x82\x69README.md\x42#\n"
        b"\x82\x6fconfig-task.yml\x51task_name: hello\n"
        b"\x82\x68lib/a.py\x40"
        b"\x82\x67task.py\x49print(1)\n"
    )
    assert found.data == by_hand
    assert found.name == cid_to_text(cid_of(by_hand))
    assert found.name == "bafkreig35dcx465zmv4imhd457yxammigkuy7ikroorn6jzqrarfttwtpa"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../task.py",
        "lib/../../x",
        "lib/./x",
        "..",
        ".",
        "",
        "lib//x",
        "lib/",
        "a\\b",
        "C:x",
        "nul\0l",
        "new\nline",
        "é.py",
        "-rf",
        "a b",
        "x" * (MOST_PATH_BYTES + 1),
        "/".join("a" * (MOST_PARTS + 1)),
    ],
)
def test_a_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(PackageError) as refused:
        pack({**TASK, path: b""})
    assert refused.value.reason is PackageReason.BAD_PATH
    entries = sorted([*TASK.items(), (path, b"")], key=lambda one: one[0].encode())
    assert reason_of(encoded(*entries)) is PackageReason.BAD_PATH


@pytest.mark.parametrize(
    "path", [".env", "lib/.hidden", "__pycache__/task.py", "lib/x.pyc", "node_modules/x.js", ".git/config"]
)
def test_a_package_has_nothing_hidden_and_no_cache(path: str) -> None:
    entries = sorted([*TASK.items(), (path, b"")])
    assert reason_of(encoded(*entries)) is PackageReason.HIDDEN


@pytest.mark.parametrize(
    "more",
    [("Task.py",), ("lib", "lib/x.py"), ("lib/x.py", "Lib/y.py"), ("task.py/x",), ("a/b/c", "a/B/d")],
)
def test_two_names_for_one_place_are_refused(more: tuple[str, ...]) -> None:
    files = {**TASK, **dict.fromkeys(more, b"")}
    with pytest.raises(PackageError) as refused:
        pack(files)
    assert refused.value.reason is PackageReason.SAME_NAME
    assert reason_of(encoded(*sorted(files.items()))) is PackageReason.SAME_NAME


def test_what_is_no_package_is_refused_with_its_reason() -> None:
    whole = sorted(TASK.items())
    assert reason_of(encoded(*whole)) is None
    assert reason_of(encoded(*whole, version=2)) is PackageReason.BAD_SHAPE
    assert reason_of(encoded(*whole, version=True)) is PackageReason.BAD_SHAPE
    assert reason_of(encoded(*reversed(whole))) is PackageReason.NOT_SORTED
    assert reason_of(encoded(whole[0], *whole)) is PackageReason.NOT_SORTED
    assert reason_of(encoded(*whole, ("x", "text"))) is PackageReason.BAD_SHAPE
    assert reason_of(encoded(*whole, (b"x", b""))) is PackageReason.BAD_SHAPE
    assert reason_of(cbor2.dumps([1, []])) is PackageReason.BAD_SHAPE
    assert reason_of(cbor2.dumps({0: 1, 1: {}})) is PackageReason.BAD_SHAPE
    assert reason_of(cbor2.dumps({0: 1, 1: [], 2: 3})) is PackageReason.BAD_SHAPE
    assert reason_of(encoded(*whole) + b"\0") is PackageReason.BAD_CBOR
    assert reason_of(b"") is PackageReason.BAD_CBOR
    assert reason_of(b"\xbf\xff") is PackageReason.BAD_CBOR
    assert reason_of(encoded(whole[0])) is PackageReason.MISSING_FILE
    assert reason_of(encoded()) is PackageReason.MISSING_FILE


def test_a_package_that_declares_more_than_it_has_costs_nothing() -> None:
    assert reason_of(b"\xa2\x00\x01\x01\x9b" + b"\xff" * 8) is PackageReason.BAD_CBOR
    assert reason_of(b"\xa2\x00\x01\x01\x81\x82\x61x\x5b" + b"\x7f" * 8) is PackageReason.BAD_CBOR
    assert reason_of(bytes(MOST_BYTES + 1)) is PackageReason.TOO_LARGE


def test_bounds_are_exact() -> None:
    full = {f"f{number:03}": b"" for number in range(MOST_FILES - len(TASK))}
    assert len(pack({**TASK, **full}).files) == MOST_FILES
    with pytest.raises(PackageError, match="files"):
        pack({**TASK, **full, "one-more": b""})
    one_more = encoded(*sorted({**TASK, **full, "one-more": b""}.items()))
    assert reason_of(one_more) is PackageReason.TOO_MANY_FILES
    spare = MOST_BYTES - len(pack({**TASK, "big": bytes(70_000)}).data) + 70_000
    assert len(pack({**TASK, "big": bytes(spare)}).data) == MOST_BYTES
    with pytest.raises(PackageError) as refused:
        pack({**TASK, "big": bytes(spare + 1)})
    assert refused.value.reason is PackageReason.TOO_LARGE
    assert pack({**TASK, "x" * MOST_PATH_BYTES: b"", "/".join("a" * MOST_PARTS): b""}).files


def test_a_secret_key_is_not_published() -> None:
    key = json.dumps(list(bytes(SecretKey.generate().seed) * 2)).encode()
    with pytest.raises(PackageError) as refused:
        pack({**TASK, "wallet.json": b" \n" + key})
    assert refused.value.reason is PackageReason.SECRET_KEY
    assert pack({**TASK, "numbers.json": json.dumps(list(range(63))).encode(), "no.json": b"[" * 4000}).files


def test_times_modes_and_caches_of_a_folder_are_no_part_of_its_package(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        for path, content in TASK.items():
            (folder / path).write_bytes(content)
    (other / "__pycache__").mkdir()
    (other / "__pycache__" / "task.cpython-311.pyc").write_bytes(b"cache")
    (other / ".env").write_text("SECRET=1")
    (other / "empty").mkdir()
    (other / "task.py").chmod(0o755)
    os.utime(other / "task.py", (1, 1))
    found = pack_folder(other)
    assert found.package == pack_folder(one).package
    assert found.left_out == (".env", "__pycache__")


def test_an_example_can_be_packed() -> None:
    found = pack_folder(EXAMPLE).package
    assert set(found.files) == {"README.md", "config-task.yml", "task.py"}
    assert found.files["task.py"] == (EXAMPLE / "task.py").read_bytes()


@pytest.mark.parametrize("kind", ["file link", "folder link", "dead link", "pipe"])
def test_links_and_pipes_are_refused(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "task"
    write_folder(pack(TASK), folder)
    odd = folder / "odd"
    match kind:
        case "file link":
            odd.symlink_to("/etc/passwd")
        case "folder link":
            odd.symlink_to("/etc")
        case "dead link":
            odd.symlink_to("nowhere")
        case _:
            os.mkfifo(odd)
    with pytest.raises(PackageError, match="odd") as refused:
        pack_folder(folder)
    assert refused.value.reason is PackageReason.NOT_A_FILE


def test_a_folder_that_is_too_large_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    write_folder(pack(TASK), folder)
    (folder / "big").write_bytes(bytes(MOST_BYTES))
    with pytest.raises(PackageError, match="The folder with") as large:
        pack_folder(folder)
    assert large.value.reason is PackageReason.TOO_LARGE
    with pytest.raises(PackageError) as missing:
        pack_folder(tmp_path / "nowhere")
    assert missing.value.reason is PackageReason.UNREADABLE
    deep = folder / "/".join("a" * MOST_PARTS)
    (folder / "big").unlink()
    deep.mkdir(parents=True)
    with pytest.raises(PackageError) as far:
        pack_folder(folder)
    assert far.value.reason is PackageReason.BAD_PATH


def test_a_package_is_written_into_a_new_folder_only(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        write_folder(pack(TASK), tmp_path)
    assert list(tmp_path.iterdir()) == []
