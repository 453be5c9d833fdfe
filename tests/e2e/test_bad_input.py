"""What an operator gets wrong: one clear message each, the right exit code, nothing lost."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.storage.keyfile import save_secret
from tests.e2e.shell import koii_p2p, running, write_private

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello_world"
LISTEN = ("--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns")
NOBODY = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWMcQ5UJ7v4Z96uGLhMwGhrWzsrhQhsqd3rzBKHUxiGhvA"


def expect(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The exit code, all of the words, three sentences and no traceback."""
    assert result.returncode == code, (result.returncode, result.stderr)
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert "error: " in result.stderr


@pytest.fixture(scope="module")
def k2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a local K2."""
    folder = tmp_path_factory.mktemp("k2")
    with running(
        "k2", "up", "--path", str(folder), "--port", "0", "--slot-ms", "50", "--output", "json"
    ) as command:
        yield command.wait_for('"url"').split('"')[3]
        command.signal(signal.SIGTERM)
        assert command.end() == 0


@pytest.fixture(scope="module")
def task(k2: str) -> str:
    """A task on that K2."""

    async def create() -> str:
        creator = SecretKey.generate()
        async with RpcClient(k2) as rpc:
            await rpc.request_airdrop(creator.public_key, 10**12)
            while not await rpc.get_balance(creator.public_key):
                await trio.sleep(0.05)
            terms = TaskTerms(bytes(32), creator.public_key, "t", 10_000_000, 100, 40, 40, 1, 1, program="t")
            created = await ProgramSettlement(rpc, creator).create_task(terms, 1)
            return str(Pubkey(created.task))

    return trio.run(create)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


# --- keys


def test_a_key_file_that_is_none(tmp_path: Path) -> None:
    write_private(tmp_path / "staking.json", "my key")
    result = koii_p2p("join", "--home", str(tmp_path), "--url", "http://127.0.0.1:1")
    expect(result, 3, "staking.json cannot be used", "not JSON")
    assert (tmp_path / "staking.json").read_text() == "my key"


def test_a_key_file_that_others_can_read(tmp_path: Path) -> None:
    save_secret(tmp_path / "staking.json", SecretKey.generate())
    (tmp_path / "staking.json").chmod(0o644)
    result = koii_p2p("join", "--home", str(tmp_path), "--url", "http://127.0.0.1:1")
    expect(result, 3, "mode 0644", "chmod 600")


def test_a_key_file_outside_the_home(tmp_path: Path) -> None:
    save_secret(tmp_path / "other.json", SecretKey.generate())
    result = koii_p2p("join", "--home", str(tmp_path / "home"), "-k", str(tmp_path / "other.json"))
    expect(result, 3, "does not run with the key file", "keys import")


# --- ports and addresses


def test_the_port_of_the_api_is_taken(k2: str, tmp_path: Path, taken_port: int) -> None:
    result = koii_p2p("join", "--home", str(tmp_path), "-u", k2, *LISTEN, "--api-port", str(taken_port))
    expect(result, 4, f"cannot listen on 127.0.0.1:{taken_port}", "--api-port")


def test_the_port_for_peers_is_taken(k2: str, tmp_path: Path, taken_port: int) -> None:
    address = f"/ip4/127.0.0.1/tcp/{taken_port}"
    result = koii_p2p("join", "--home", str(tmp_path), "-u", k2, "--listen", address, "--no-mdns")
    expect(result, 4, str(taken_port))


def test_the_port_of_a_local_k2_is_taken(tmp_path: Path, taken_port: int) -> None:
    result = koii_p2p("k2", "up", "--path", str(tmp_path), "--port", str(taken_port))
    expect(result, 4, f"cannot listen on 127.0.0.1:{taken_port}", "--port")


@pytest.mark.parametrize("flag", ["--listen", "--bootstrap"])
def test_an_address_that_is_none(tmp_path: Path, flag: str) -> None:
    result = koii_p2p("join", "--home", str(tmp_path), "-u", "http://127.0.0.1:1", flag, "example.org:4001")
    expect(result, 3, "'example.org:4001' cannot be used", "/ip4/")


# --- K2


def test_a_k2_that_does_not_answer(tmp_path: Path) -> None:
    result = koii_p2p("join", "--home", str(tmp_path), "-u", "http://127.0.0.1:1")
    expect(result, 5, "K2 does not answer at http://127.0.0.1:1", "koii-p2p k2 up")


def test_an_airdrop_to_nobody_and_from_nobody() -> None:
    key = str(Keypair().pubkey())
    expect(koii_p2p("k2", "airdrop", key, "1", "-u", "http://127.0.0.1:1"), 5, "does not answer")
    assert koii_p2p("k2", "airdrop", "nobody", "1").returncode == 2
    assert koii_p2p("k2", "airdrop", key, "much").returncode == 2


def test_an_airdrop_arrives(k2: str) -> None:
    key = str(Keypair().pubkey())
    result = koii_p2p("k2", "airdrop", key, "1.9", "-u", k2, "--output", "json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["balance"] == 1_900_000_000


# --- tasks


def test_a_task_that_cannot_be_imported(k2: str, task: str, tmp_path: Path) -> None:
    code = tmp_path / "task.py"
    code.write_text("import no_such_module_anywhere\n")
    result = koii_p2p("join", "--home", str(tmp_path / "home"), "-u", k2, *LISTEN, "--task", f"{task}={code}")
    expect(result, 3, "could not be imported", "no_such_module_anywhere", "line 1")


def test_a_task_that_is_not_on_this_cluster(k2: str, tmp_path: Path) -> None:
    nothing = str(Keypair().pubkey())
    result = koii_p2p("join", "--home", str(tmp_path), "-u", k2, *LISTEN, "--task", f"{nothing}={EXAMPLE}")
    expect(result, 5, f"There is no task {nothing}")


@pytest.mark.parametrize("text", ["hello", "hello=/tmp"])
def test_a_task_option_that_is_incomplete(tmp_path: Path, text: str) -> None:
    result = koii_p2p("join", "--home", str(tmp_path), "-u", "http://127.0.0.1:1", "--task", text)
    expect(result, 3, "--task ID=PATH")


def test_misbehaving_is_refused_outside_local_clusters(tmp_path: Path) -> None:
    result = koii_p2p("join", "--home", str(tmp_path), "-u", "testnet", "--behaviour", "wrong-value")
    expect(result, 3, "refused on testnet", "local clusters")
    assert not (tmp_path / "staking.json").exists()


def test_a_stake_that_is_no_amount(tmp_path: Path) -> None:
    result = koii_p2p("join", "--home", str(tmp_path), "--stake", "lots")
    expect(result, 2, "not an amount in KOII")


# --- a node that runs


def test_a_node_without_its_bootstrap_runs_and_says_so(k2: str, task: str, tmp_path: Path) -> None:
    line = ("join", "--home", str(tmp_path), "-u", k2, *LISTEN)
    task_option = ("--task", f"{task}={EXAMPLE}")
    with running(*line, "--output", "json", "--bootstrap", NOBODY, *task_option) as node:
        ready = json.loads(node.wait_for('"ready"'))
        assert ready["tasks"] == [task]
        node.wait_for("made a new key")
        node.wait_for("bootstrap_unreachable")
        _a_second_one_is_refused(tmp_path, line)
        assert node.process.poll() is None
        _shut_down(tmp_path, ready["api_url"])
        assert node.end() == 0
    assert not (tmp_path / "api.json").exists()
    expect(koii_p2p("status", "--home", str(tmp_path)), 4, "No node runs")


def _a_second_one_is_refused(home: Path, line: tuple[str, ...]) -> None:
    expect(koii_p2p(*line), 3, f"The home folder {home} is in use", "must not run twice")


def _shut_down(home: Path, url: str) -> None:
    token = json.loads((home / "api.json").read_text())["token"]
    assert httpx.post(f"{url}/shutdown", trust_env=False).status_code == 401
    reply = httpx.post(f"{url}/shutdown", headers={"authorization": f"Bearer {token}"}, trust_env=False)
    assert reply.status_code == 200


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_a_node_in_order(k2: str, tmp_path: Path, number: signal.Signals, code: int) -> None:
    with running("join", "--home", str(tmp_path), "-u", k2, *LISTEN) as node:
        node.wait_for("addresses")
        node.signal(number)
        assert node.end() == code
    assert "Traceback" not in "\n".join(node.err)


def test_join_local_starts_a_k2_of_its_own(tmp_path: Path) -> None:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 8899), 1):
        pytest.skip("something listens at 127.0.0.1:8899 on this machine already")
    line = ("join", "--home", str(tmp_path), "--cluster", "local", *LISTEN, "--output", "json")
    with running(*line) as node:
        node.wait_for('"ready"')
        node.wait_for("starting one inside this node")
        assert httpx.get("http://127.0.0.1:8899/health", trust_env=False).text == "ok"
        node.signal(signal.SIGTERM)
        assert node.end() == 0


# --- testnets


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--nodes", "1"], "nodes = 1"),
        (["--nodes", "4", "--cheaters", "2"], "majority"),
        (["--file", "/nowhere.toml"], "cannot be read"),
        (["--task", "/nowhere"], "nothing at this path"),
    ],
)
def test_a_testnet_that_is_not_possible(tmp_path: Path, flags: list[str], words: str) -> None:
    result = koii_p2p("testnet", "up", "--dir", str(tmp_path / "net"), *flags)
    expect(result, 3, words)


def test_a_testnet_in_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    result = koii_p2p("testnet", "up", "--dir", str(tmp_path))
    expect(result, 3, "is not a testnet's", "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_testnet_whose_k2_port_is_taken(tmp_path: Path, taken_port: int) -> None:
    result = koii_p2p("testnet", "up", "--dir", str(tmp_path / "net"), "--k2-port", str(taken_port))
    assert result.returncode == 4
    assert f"cannot listen on 127.0.0.1:{taken_port}" in result.stderr


def test_commands_without_a_testnet(tmp_path: Path) -> None:
    for command in ("status", "logs", "check"):
        expect(koii_p2p("testnet", command, "--dir", str(tmp_path / "net")), 3, "testnet up")
    result = koii_p2p("testnet", "check", "--evidence", str(tmp_path))
    expect(result, 3, "cannot be used")
