"""Every command that docs/packages.md shows is run here: an author's task reaches a node that knows its id alone."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from koii_p2p.cli.key_names import text_of
from koii_p2p.limits import Limits
from koii_p2p.node.trust import TrustList
from koii_p2p.records.keys import SecretKey
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import load_public, save_secret
from koii_p2p.tasks import package
from koii_p2p.tasks.new_task import make_task
from koii_p2p.testnets.node_client import NodeClient
from tests.e2e.shell import COMMAND, environment, koii_p2p, running, wait_until
from tests.e2e.test_documents import ROOT, shown_commands

T = TypeVar("T")
PAGE = ROOT / "docs" / "packages.md"
JOINED = ("--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns", "--api-port", "0", "--output", "json")


def make_folder(parent: Path, name: str) -> None:
    """A task's folder from the template, with rounds of four seconds."""
    make_task(name, "hello-world", parent)
    config = parent / name / "config-task.yml"
    text = config.read_text()
    for old, new in (("round_time: 500", "round_time: 80"), ("_window: 200", "_window: 30")):
        assert old in text
        text = text.replace(old, new)
    config.write_text(text + "\nkoii_p2p:\n  starts_in: 60\n")


def make_home(path: Path, url: str) -> Home:
    """A home with keys, whose wallet has Roe."""
    home, wallet = Home(path), SecretKey.generate()
    home.prepare()
    save_secret(home.staking_key, SecretKey.generate())
    save_secret(home.wallet_key, wallet)

    async def pay() -> None:
        async with RpcClient(url) as rpc:
            await rpc.request_airdrop(wallet.public_key, 100 * 10**9)
            while not await rpc.get_balance(wallet.public_key):
                await trio.sleep(0.05)

    trio.run(pay)
    return home


def asked_of(home: Home, work: Callable[[NodeClient], Awaitable[T]]) -> T:
    """What the node of a home answers over its API."""

    async def ask() -> T:
        async with NodeClient.of_home(home.path) as client:
            return await work(client)

    return trio.run(ask)


def works_on(home: Home) -> set[str]:
    return {one["task"] for one in asked_of(home, NodeClient.status)["tasks"]}


def has_submitted(home: Home, task: str) -> bool:
    """Whether the node of a home has handed in something that is still in its memory."""

    async def look(client: NodeClient) -> bool:
        shown = await client.status()
        (found,) = [one for one in shown["tasks"] if one["task"] == task]
        views = [await client.round(task, brief["round"]) for brief in found["rounds"]]
        return any(one["author"] == shown["key"] for view in views if view for one in view["submitted"])

    return asked_of(home, look)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_task_reaches_a_node_that_knows_its_id_alone(tmp_path: Path) -> None:
    left = shown_commands([PAGE])
    names: dict[str, str] = {}

    def take(command: str) -> list[str]:
        left.remove(command)
        return [names.get(word, word) for word in shlex.split(command)[1:]]

    def run(place: Mapping[str, str], command: str, *more: str) -> str:
        result = koii_p2p(*take(command), *more, **place)
        assert result.returncode == 0, (command, result.stderr)
        return result.stdout

    with ExitStack() as stack:
        flags = ("--path", str(tmp_path / "k2"), "--port", "0", "--slot-ms", "50", "--output", "json")
        k2 = stack.enter_context(running("k2", "up", *flags))
        url = k2.wait_for('"url"').split('"')[3]
        authors, others = (make_home(tmp_path / name, url) for name in ("author", "other"))
        author, other = ({"KOII_P2P_HOME": str(home.path), "KOII_P2P_URL": url} for home in (authors, others))
        names["AUTHOR"] = text_of(load_public(authors.wallet_key))
        for folder in ("FOLDER", "NEWER"):
            make_folder(tmp_path, folder.lower())
            names[folder] = str(tmp_path / folder.lower())

        cid = json.loads(run(author, "koii-p2p task pack FOLDER", "--output", "json"))["cid"]
        made = json.loads(run(author, "koii-p2p task create FOLDER --publish", "--yes", "--output", "json"))
        task = names["TASK"] = made["task"]
        first = stack.enter_context(running(*take("koii-p2p join --task TASK --stake 2"), *JOINED, **author))
        names["ADDRESS"] = json.loads(first.wait_for('"ready"'))["addresses"][0]
        run(author, "koii-p2p task update TASK --bootstrap ADDRESS", "--yes")

        join = take("koii-p2p join --task TASK")
        refused = koii_p2p(*join, *JOINED, **other)
        error = json.loads(refused.stderr.strip().splitlines()[-1])["error"] if refused.stderr else {}
        assert refused.returncode == 3, refused.stderr
        assert f"koii-p2p task trust add {cid}" in error["remedy"]
        assert not (others.tasks / task).exists(), "nothing of it was run"
        assert _asked_on_a_terminal([*join, *JOINED], other, b"n\n") == (3, True)
        run(other, "koii-p2p task trust add AUTHOR")
        assert names["AUTHOR"] in run(other, "koii-p2p task trust list")
        second = stack.enter_context(running(*join, "--stake", "2", *JOINED, **other))
        assert json.loads(second.wait_for('"ready"'))["tasks"] == [task]
        wait_until(lambda: has_submitted(others, task), 60, "a submission of the second node")
        assert asked_of(others, NodeClient.status)["packages"]["offered"] == [cid]

        made = json.loads(run(author, "koii-p2p task create NEWER --publish", "--yes", "--output", "json"))
        names["NEXT"] = made["task"]
        run(author, "koii-p2p task update TASK --successor NEXT", "--yes")

        both = {task, names["NEXT"]}
        wait_until(
            lambda: works_on(authors) == both, 60, "the author's node to follow: it trusts what it made"
        )
        wait_until(lambda: works_on(others) == both, 60, "the second node to follow its author")
        run(other, "koii-p2p task trust remove AUTHOR")
        assert TrustList(others, Limits()).entries() == ()
    assert left == []


def _asked_on_a_terminal(arguments: list[str], place: Mapping[str, str], answer: bytes) -> tuple[int, bool]:
    """The exit code of a command that runs on a terminal and is answered so, and whether it asked."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**place)
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while b"[y/N]" not in seen and (data := os.read(ours, 65536)):
                seen += data
            os.write(ours, answer)
            while data := os.read(ours, 65536):
                seen += data
        except OSError:
            pass  # the terminal ends with its last process
        code = process.wait(60)
    os.close(ours)
    return code, b"Run this code, and remember its CID?" in seen


def test_the_page_tells_the_limits_that_there_are() -> None:
    text, limits, mebibyte = " ".join(PAGE.read_text().split()), Limits(), 1024 * 1024
    assert (
        f"{package.MOST_BYTES // mebibyte} MiB, {package.MOST_FILES} files, paths of {package.MOST_PATH_BYTES} bytes "
        f"and {package.MOST_PARTS} names" in text
    )
    assert f"at most {limits.package_part_bytes // mebibyte} MiB" in text
    assert f"for {limits.package_fetch_seconds:g} seconds" in text
    assert f"at most {limits.successors} successors" in text
    assert f"at most {limits.package_given_peer_bytes // mebibyte} MiB in ten minutes" in text
    assert (limits.package_given_seconds, limits.package_given_bytes // mebibyte) == (600, 1024)
