"""Every command that README and docs show is run here, in a story: a testnet goes on, a new node joins it."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.shell import LONG, Running, koii_p2p, running, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
OWN_STORIES = {
    "carriers.md": "test_carriers.py",
    "collections.md": "test_collections_page.py",
    "config-task.md": "test_config_task_page.py",
    "data.md": "test_data_commands.py",
    "experiments.md": "test_experiments_page.py",
    "keys.md": "test_keys_page.py",
    "local-k2.md": "test_local_k2_page.py",
    "money.md": "test_money_page.py",
    "packages.md": "test_packages_page.py",
    "writing-tasks.md": "test_writing_tasks_page.py",
}
"""Pages whose commands are run by a story of their own, and where it is."""

DOCUMENTS = (
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in OWN_STORIES),
)

RUN_ELSEWHERE = {
    "pip install -e .": ".ci/run installs with the constraints of the same line",
    "pip install -e '.[test]'": ".ci/run",
    "pip install -e '.[lab]'": ".ci/run",
    "pytest": ".ci/run",
    "koii-p2p lab run koii-today-vs-hardened": "test_experiments_page.py",
    "koii-p2p lab run gossip-cold-boot": "test_experiments_page.py",
    "koii-p2p lab run gossip-covert-flash": "test_experiments_page.py",
    "koii-p2p lab run gossip-swarm": "test_experiments_page.py",
    "koii-p2p lab run gossip-cold-boot --set attack.honest=1000 --set attack.sybils=4000 --set attack.links=20 "
    "--set attack.sybil_links=20 --seeds 1": "test_experiments_page.py",
    "koii-p2p testnet up": "test_testnet.py and .ci/run",
    "koii-p2p testnet up --nodes 15 --cheaters 3": "takes longer than CI wants; by hand before a release",
    "koii-p2p explain ROUND KEY --evidence FOLDER --code PATH": "tests/cli/test_list_rule.py",
    "koii-p2p testnet up --file testnet/five.toml": "the same as without --file: test_topology.py compares the two",
    **{
        f"koii-p2p testnet up --file testnet/{name}.toml": "test_disputes.py"
        for name in (
            "late-accusation-koii",
            "late-accusation",
            "equivocation",
            "omission",
            "pay-itself",
            "fleeing",
            "sealed",
        )
    },
    **{
        f"koii-p2p testnet up --file testnet/{name}.toml": "tests/faults/test_faulty_k2.py"
        for name in ("k2-drop", "k2-lag", "k2-restart", "k2-rollback")
    },
    **{
        f"koii-p2p testnet up --file testnet/{name}.toml": "tests/faults/test_network_conditions.py"
        for name in ("latency", "partition", "churn")
    },
    **{
        f"koii-p2p testnet chaos {name}": "tests/faults/test_network_conditions.py"
        for name in ("kill", "halves", "rough")
    },
}
"""Commands that this story does not run, and who does."""


def shown_commands(documents: Iterable[Path] = DOCUMENTS) -> list[str]:
    """The command lines of documents, in order, each once, without their remarks."""
    found: list[str] = []
    for document in documents:
        for line in document.read_text().splitlines():
            if re.match(r"    (koii-p2p|pip|pytest)\b", line):
                command = re.sub(r"\s+#.*", "", line.strip())
                if command not in found:
                    found.append(command)
    return found


def test_every_command_of_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # files are named as a reader would name them
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 8899), 1):
        pytest.skip("something listens at 127.0.0.1:8899, which the documents name")
    place = {"KOII_P2P_TESTNET_DIR": str(tmp_path / "net"), "KOII_P2P_HOME": str(tmp_path / "home")}
    left = [command for command in shown_commands() if command not in RUN_ELSEWHERE]
    assert left, "the documents show commands"

    def take(*words: str) -> list[str]:
        """The arguments of the command of these words, or of the next that begins with them; it counts as run."""
        start = " ".join(("koii-p2p", *words))
        begun = (command for command in left if command.startswith(f"{start} "))
        command = start if start in left else next(begun)
        left.remove(command)
        return shlex.split(command)[1:]

    def run(*words: str, **names: str) -> str:
        """Run such a command to its end, names in capitals replaced."""
        arguments = [names.get(word, word) for word in take(*words)]
        result = koii_p2p(*arguments, **place)
        assert result.returncode == 0, (arguments, result.stderr)
        return result.stdout

    with ExitStack() as stack:
        net = stack.enter_context(running(*take("testnet", "up", "--keep"), **place))
        net.wait_for("the testnet goes on", LONG)
        assert "running" in run("testnet", "status")
        state = json.loads(koii_p2p("testnet", "status", "--output", "json", **place).stdout)
        run("init")
        assert "wallet" in run("keys", "show")
        keys = json.loads(koii_p2p("keys", "show", "--output", "json", **place).stdout)
        run("k2", "airdrop", WALLET=keys["wallet"])
        names = {
            "TASK=examples/hello_world": f"{state['task']}={ROOT / 'examples' / 'hello_world'}",
            "ADDRESS": state["nodes"]["node-00"]["addresses"][0],
        }
        joining = [names.get(word, word) for word in take("join")]
        node = stack.enter_context(running(*joining, **place))
        node.wait_for("addresses")
        assert state["task"] in run("status")
        _look_at_the_network(run, state["nodes"]["node-00"], place)
        approved_in = _wait_until_it_is_approved(node, keys["staking"], place)
        assert keys["staking"] in run("round", "show", ROUND=str(approved_in))
        _wait_until_it_is_listed(approved_in, place)
        other = state["nodes"]["node-00"]
        words = {
            "ROUND": str(approved_in),
            "KEY": other["key"],
            "TASK": state["task"],
            "ADDRESS": other["addresses"][0],
            "FOLDER": str(tmp_path / "net" / "evidence"),
            "FILE": str(tmp_path / "own.receipt"),
            "DUMP": str(tmp_path / "task.json"),
        }
        assert f"{keys['staking'][:8]}…" in run("explain", "ROUND", **words)
        assert other["key"] in run("explain", "ROUND", "KEY", **words)
        assert other["key"] in run("explain", "ROUND", "KEY", "--task", "TASK", **words)
        assert other["key"] in run("explain", "ROUND", "KEY", "--evidence", **words | {"ROUND": "1"})
        assert keys["staking"] in run("receipt", "export", "ROUND", **words)
        assert "The receipt holds." in run("receipt", "verify", "FILE", **words)
        _dump_account(state["k2_url"], state["task"], tmp_path / "task.json")
        assert "The receipt holds." in run("receipt", "verify", "FILE", "--account", **words)
        assert "verified: yes" in run("testnet", "check")
        run("testnet", "down")
        net.end()
    assert left == []


def _look_at_the_network(run: Callable[..., str], bootstrap: dict[str, Any], place: dict[str, str]) -> None:
    """The commands that show the network, and what monitoring reads, of a node that has just joined."""
    wait_until(lambda: bootstrap["key"] in koii_p2p("peers", **place).stdout, 60, "the first peer")
    assert bootstrap["addresses"][0].rpartition("/p2p/")[2] in run("peers")
    assert "neighbours" in run("mesh")
    assert "P5 stake" in run("mesh", "--scores")
    assert "own_messages_held" in run("resources")
    assert "answers" in run("doctor")
    assert "addresses told" in run("reach")
    assert "network_listening" in run("logs")
    api = json.loads((Path(place["KOII_P2P_HOME"]) / "api.json").read_text())["url"]
    token = (Path(place["KOII_P2P_HOME"]) / "metrics.token").read_text().strip()
    assert httpx.get(f"{api}/readyz", trust_env=False).text == "ready\n"
    bearer = {"authorization": f"Bearer {token}"}
    numbers = httpx.get(f"{api}/metrics", headers=bearer, trust_env=False).text
    assert re.search(r'^koii_gossipsub_topic_subscription_status\{hash=".+"\} 1', numbers, re.MULTILINE)
    assert httpx.get(f"{api}/status", headers=bearer, trust_env=False).status_code == 401


def _wait_until_it_is_approved(node: Running, key: str, place: dict[str, str]) -> int:
    """The joined node works in a round, and the others approve it: the number of the first such round."""
    found: list[int] = []

    def approved() -> bool:
        assert node.process.poll() is None, node.err[-5:]
        shown = json.loads(koii_p2p("status", "--output", "json", **place).stdout)
        for brief in shown["tasks"][0]["rounds"]:
            line = ("round", "show", str(brief["round"]), "--output", "json")
            view = json.loads(koii_p2p(*line, **place).stdout)
            if any((entry["author"], entry["outcome"]) == (key, "APPROVED") for entry in view["submitted"]):
                found.append(view["round"])
        return bool(found)

    wait_until(approved, 120, "a round in which the new node is approved")
    return found[0]


def _wait_until_it_is_listed(number: int, place: dict[str, str]) -> None:
    """The round's list is anchored, and the joined node has it."""

    def listed() -> bool:
        found = koii_p2p("explain", str(number), "--output", "json", **place)
        return found.returncode == 0 and json.loads(found.stdout)["leaf"] is not None

    wait_until(listed, 120, f"the list of round {number}")


def _dump_account(url: str, task: str, file: Path) -> None:
    question = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "getAccountInfo",
        "params": [task, {"encoding": "base64"}],
    }
    file.write_bytes(httpx.post(url, json=question, trust_env=False).content)


def test_the_documents_show_nothing_that_is_gone() -> None:
    shown = shown_commands()
    assert not [command for command in RUN_ELSEWHERE if command not in shown]


def test_every_page_with_a_story_of_its_own_has_one() -> None:
    for page, story in OWN_STORIES.items():
        assert (ROOT / "docs" / page).exists()
        assert (Path(__file__).parent / story).exists()
