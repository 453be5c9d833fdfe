from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from koii_p2p.cli import round_facts
from koii_p2p.cli.explain import explanation_json, explanation_tables, reasons_of, verdict_of
from koii_p2p.cli.key_names import SHORTEST, KeyNames, chosen_key, text_of
from koii_p2p.cli.main import Invocation, run
from koii_p2p.cli.round_facts import HISTORY_TRIES, Asked, gather, read_k2, saved_k2
from koii_p2p.cli.round_sources import RunningNode, SavedTestnet, StoppedNode, asked_peer
from koii_p2p.cli.settings import load_settings
from koii_p2p.errors import ChainError, NetworkError
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.node.api import create_app, serve_api
from koii_p2p.node.api_file import write_api_file
from koii_p2p.node.exchange import (
    ARTIFACTS_PROTOCOL,
    decode_artifacts_request,
    encode_artifacts,
)
from koii_p2p.node.exchange import (
    Artifacts as Reply,
)
from koii_p2p.records.envelope import decode_record, verify
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Kind
from koii_p2p.rounds.commitment import Bundle
from koii_p2p.rounds.explain import explain
from koii_p2p.rounds.why import Why
from koii_p2p.settlement.instructions import AnchorCommitment
from koii_p2p.settlement.layouts import ROUND_RING
from koii_p2p.settlement.rpc import Account, Commitment, SignatureInfo
from koii_p2p.storage.artifacts import Artifact, Artifacts
from koii_p2p.storage.database import Database
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import save_secret
from koii_p2p.storage.record_log import RecordLog
from koii_p2p.testnets.evidence import Evidence, save_evidence
from koii_p2p.testnets.identity import OMITTING_LEADER
from koii_p2p.testnets.node_client import NodeClient
from tests.rounds.net import secret, submission
from tests.rounds.test_explain import PLAYED
from tests.settlement.virtual_rpc import VirtualRpc
from tests.testnets.played import GENESIS, Game, Role, game, played, played_with

NAMES = ("commitment", "bundle", "list")


class GameRpc(VirtualRpc):
    """K2 as the played testnet left it."""

    def __init__(self, of: Game) -> None:
        super().__init__(of.chain)
        self._blocks = of.blocks

    async def get_genesis_hash(self) -> bytes:
        return GENESIS

    async def get_account(self, address: bytes, commitment: Commitment = "confirmed") -> Account | None:
        return (await self.get_multiple_accounts([address]))[0]

    async def get_first_block(
        self, slot: int, commitment: Commitment = "confirmed"
    ) -> tuple[int, bytes] | None:
        return next((block for block in self._blocks.values() if block[0] == slot), None)


class Held:
    """A node, as its API sees it, that holds what one node of the played testnet held."""

    def __init__(self, evidence: Evidence, node: int = 0, timely: bool = True) -> None:
        self._evidence, self._node, self._timely = evidence, evidence.nodes[node], timely
        self._task = text_of(evidence.chain.task)

    def status(self) -> Mapping[str, Any]:
        cluster = {"url": "http://127.0.0.1:1", "genesis": text_of(GENESIS)}
        return {"key": self._node.key, "cluster": cluster, "tasks": [{"task": self._task}]}

    def rounds(self) -> list[Mapping[str, Any]]:
        return []

    def round(self, task: str, number: int) -> Mapping[str, Any] | None:
        if task != self._task or number not in self._evidence.copies:
            return None
        signed = [
            {"raw": base64.b64encode(raw).decode(), "timely": self._timely} for raw in self._records(number)
        ]
        return {"signed": [*signed, {"raw": "!"}, {"raw": base64.b64encode(b"junk").decode()}, {}]}

    def peers(self) -> list[Mapping[str, Any]]:
        return []

    def artifact(self, task: str, number: int, name: str) -> bytes | None:
        copies = self._evidence.copies.get(number)
        return None if copies is None or task != self._task else copies.of(name)[self._node.name]

    def stop(self) -> None:
        raise AssertionError("nobody asked for that")

    def _records(self, number: int) -> tuple[bytes, ...]:
        return tuple(Bundle.decode(self._evidence.copies[number].bundle[self._node.name]).records)


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Commands send logs to the standard error of their test, which is closed after it."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The folder that the played testnet left."""
    save_evidence(played(), tmp_path / "evidence")
    return tmp_path / "evidence"


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks K2 for the played testnet's task asks its virtual machine."""
    monkeypatch.setattr(round_facts, "_rpc", lambda url: GameRpc(game()))


def key_of(node: int) -> str:
    return played().nodes[node].key


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run([*arguments, "--output", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


# --- what a testnet left


def test_who_was_paid(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "0", key_of(0), "--evidence", str(left)]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"{key_of(0)[:8]}… was paid 0.25 KOII for round 0."
    assert rest[:4] == [
        f"  {Why.APPROVED_BY_DRAWN.__doc__}",
        "  Of 4 auditors drawn, 4 voted: 4 VALID.",
        f"  {Why.PAID.__doc__}",
        "  The bounty of 1 KOII, in equal parts to the 4 whose work was approved, is 0.25 KOII each.",
    ]
    text = "\n".join(rest)
    assert re.search(r"why +approved_by_drawn, paid\b", text)
    assert re.search(rf"key +{key_of(0)}\b", text)
    assert re.search(r"list +[0-9a-f]{64} in slot \d+ by \w{8}… *\n +transaction \w{80,90}\b", text)
    assert re.search(rf"{key_of(1)[:8]}… +25 % +drawn +VALID", text)


def test_who_was_slashed_and_who_has_nothing_left_to_slash(
    left: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        json_of(capsys, "explain", str(number), key_of(4), "--evidence", str(left)) for number in (0, 1, 3)
    ]
    assert [one["work"]["name"] for one in found] == ["rejected_by_full_audit", "ejected", "below_minimum"]
    assert [one["money"]["name"] for one in found] == ["slash_taken", "nothing_due", "nothing_due"]
    assert found[0]["verdict"] == f"{key_of(4)} lost 1.33 KOII of its stake for round 0."
    assert "70 % of a stake of 1.9 KOII is 1.33 KOII." in found[0]["reasons"]
    assert "They leave 0.57 KOII of its 1.9 KOII, and the minimum is 0.76 KOII." in found[1]["reasons"]
    assert found[0]["amounts"]["slash"] == 1_330_000_000
    assert set(found[0]["audit"]["accusers"]) == {key_of(node) for node in range(4)}
    signatures = [line.signature for line, _ in played().chain.transactions]
    assert found[0]["anchors"]["commitment_signature"] in signatures


def test_a_vetoed_attempt_gives_way_to_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evidence = played_with(OMITTING_LEADER)
    save_evidence(evidence, tmp_path)
    found = json_of(capsys, "explain", "0", evidence.nodes[0].key, "--evidence", str(tmp_path))
    assert (found["work"]["name"], found["money"]["name"]) == ("approved_by_drawn", "paid")
    assert found["anchors"]["attempt"] == 1


def test_a_round_that_is_not_there_is_not_over(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, "explain", "99", key_of(0), "--evidence", str(left))
    assert (found["work"]["name"], found["money"]) == ("not_begun", None)
    assert found["verdict"].endswith("yet: it is not over.")


def test_a_key_may_be_given_by_its_beginning(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (key_of(2)[:SHORTEST], f"{key_of(2)[:SHORTEST]}…"):
        assert json_of(capsys, "explain", "0", text, "--evidence", str(left))["key"] == key_of(2)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("0",), "there is no own key here"),
        (("0", "abc"), "neither a key in base58 nor 4 characters"),
        (("0", "0OIl"), "neither a key in base58 nor 4 characters"),
        (("0", "zzzz"), "no staker's key begins with 'zzzz'"),
        (("-1", "zzzz"), "No such option"),
        (("0", "--task", "junk"), "is not 32 bytes in base58"),
        (("0", "--peer", "/ip4/127.0.0.1/tcp/1"), "exclude each other"),
    ],
)
def test_what_is_not_understood_is_a_usage_error(
    left: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], why: str
) -> None:
    assert run(["explain", *arguments, "--evidence", str(left)]) == 2
    assert why in " ".join(capsys.readouterr().err.split())


def test_a_peer_has_to_be_told_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "0", "--peer", "/ip4/127.0.0.1/tcp/1"]) == 2
    assert "give --task as well" in capsys.readouterr().err


def test_evidence_of_another_task_or_of_nothing(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "0", "--task", text_of(bytes(32)), "--evidence", str(left)]) == 3
    assert "is not of task" in capsys.readouterr().err
    assert run(["explain", "0", "--evidence", str(left / "nowhere")]) == 3


def test_evidence_whose_transactions_do_not_lead_to_the_account() -> None:
    chain = played().chain
    with pytest.raises(ChainError, match="do not lead there"):
        saved_k2(replace(chain, transactions=chain.transactions[:-8]), 0)


def test_no_node_is_said_with_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "0", "--home", str(tmp_path / "none")]) == 4
    assert "koii-p2p join" in capsys.readouterr().err


# --- whom to ask


async def test_k2_says_the_same_as_what_was_saved_of_it() -> None:
    for number in range(played().rounds):
        asked, saved = await read_k2(GameRpc(game()), game().task, number), saved_k2(played().chain, number)
        assert (asked.genesis, asked.state, asked.stakes, asked.beacon) == (
            saved.genesis,
            saved.state,
            saved.stakes,
            saved.beacon,
        )
        assert asked.anchors.rounds == saved.anchors.rounds


class BusyRpc(GameRpc):
    """K2 while rounds go on: the account is read before the newest transactions land, for a few times."""

    def __init__(self, of: Game, behind: int) -> None:
        super().__init__(of)
        self._behind = behind

    async def get_address_history(
        self, address: bytes, *, until: str | None = None, limit: int, commitment: Commitment = "confirmed"
    ) -> tuple[SignatureInfo, ...]:
        lines = await super().get_address_history(address, limit=limit)
        self._behind -= 1
        return lines[8:] if self._behind >= 0 else lines


async def test_a_history_is_read_until_no_anchor_comes_in_between() -> None:
    evidence_of = Game([Role(), Role(), Role()], ROUND_RING + 1)
    for behind in range(HISTORY_TRIES):
        found = await read_k2(BusyRpc(evidence_of, behind), evidence_of.task, 0)
        assert min(found.anchors.rounds) == 0
        assert found.anchors.signature_of(AnchorCommitment, 0) is not None
    with pytest.raises(ChainError, match="do not lead there"):
        await read_k2(BusyRpc(evidence_of, HISTORY_TRIES), evidence_of.task, 0)


async def test_a_saved_testnet_hands_out_each_different_copy_once() -> None:
    source = SavedTestnet(played_with(OMITTING_LEADER))
    assert len(await source.copies(0, "bundle")) == 2
    assert len(await SavedTestnet(played()).copies(0, "bundle")) == 1
    assert await source.copies(99, "bundle") == ()


def stored(path: Path, node: int = 0, late: int | None = None) -> Database:
    """A node's database with all rounds; the submission of node `late` came one slot too late."""
    database = Database.open(path)
    task, clock = game().task, game().terms.clock
    for number, copies in played().copies.items():
        for name in NAMES:
            data = copies.of(name)[played().nodes[node].name]
            Artifacts(database, Limits()).put(task, number, Artifact(name), data)
        for raw in Bundle.decode(copies.bundle[played().nodes[node].name]).records:
            record = verify(decode_record(raw), GENESIS)
            missed = (
                record.kind is Kind.SUBMISSION and late is not None and text_of(record.author) == key_of(late)
            )
            slot = clock.submission(number).closes if missed else record.statement.slot
            RecordLog(database).put(record, slot)
    return database


async def test_a_stopped_node_knows_what_it_received_in_time(tmp_path: Path) -> None:
    with stored(tmp_path / "db", late=1) as database:
        source = StoppedNode(database, game().terms, GENESIS)
        for name in NAMES:
            assert await source.copies(1, name) == (played().copies[1].of(name)["node-00"],)
            assert await source.copies(99, name) == ()
        seen = await source.seen(1)
        assert [text_of(one.record.author) for one in seen if not one.timely] == [key_of(1)]
        assert len(seen) == 10
        assert await source.seen(99) == ()


def home_of(path: Path, node: int = 0) -> Home:
    home = Home(path)
    home.prepare()
    save_secret(home.staking_key, game().players[node].secret)
    return home


@pytest.mark.usefixtures("chain")
def test_an_operator_asks_his_node_that_does_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = home_of(tmp_path / "home", 1)
    arguments = ("explain", "0", "--home", str(home.path))
    assert run([*arguments]) == 3
    assert "Name one with --task" in capsys.readouterr().err
    task = text_of(game().task)
    assert run([*arguments, "--task", task]) == 3
    assert "holds nothing of the chain" in capsys.readouterr().err
    stored(home.database_of(GENESIS), 1).close()
    found = json_of(capsys, *arguments, "--task", task)
    assert (found["key"], found["money"]["name"]) == (key_of(1), "paid")
    home.config.write_text(f'tasks = ["{task}"]\n')
    assert json_of(capsys, *arguments)["key"] == key_of(1)


@pytest.mark.usefixtures("chain")
def test_a_node_that_lost_the_bytes_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = home_of(tmp_path / "home")
    Database.open(home.database_of(GENESIS)).close()
    found = json_of(capsys, "explain", "1", "--home", str(home.path), "--task", text_of(game().task))
    assert (found["work"]["name"], found["money"]["name"]) == ("commitment_unread", "list_unread")
    assert found["verdict"].startswith("It cannot be told")


@pytest.mark.usefixtures("chain")
async def test_an_operator_asks_his_node_that_runs(tmp_path: Path) -> None:
    home = home_of(tmp_path / "home")
    loaded = load_settings(Invocation({"home": home.path}, 0, False))
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_api, create_app(Held(played()), "secret"), "127.0.0.1", 0, Limits())
        write_api_file(home.api, url, "secret", os.getpid())
        with home.locked():
            gathered = await gather(loaded, Asked(1))
        nursery.cancel_scope.cancel()
    assert gathered.own_key is not None
    assert text_of(gathered.own_key) == key_of(0)
    found = explain(gathered.about(gathered.own_key), gathered.own_key)
    assert (found.work, found.money) == (Why.APPROVED_BY_DRAWN, Why.PAID)
    assert len(gathered.facts.seen) == 10


async def test_a_running_node_that_answers_nonsense_is_read_as_far_as_it_goes() -> None:
    async with trio.open_nursery() as nursery:
        node = Held(played(), timely=False)
        url = await nursery.start(serve_api, create_app(node, "secret"), "127.0.0.1", 0, Limits())
        async with NodeClient(url, "secret") as client:
            source = RunningNode(client, text_of(game().task), GENESIS)
            seen = await source.seen(0)
            assert len(seen) == 10
            assert not any(one.timely for one in seen)
            assert await source.seen(99) == ()
            assert await source.copies(99, "list") == ()
            other = RunningNode(client, text_of(game().task), bytes(32))
            assert await other.seen(0) == ()
        nursery.cancel_scope.cancel()


async def test_anybody_asks_a_peer() -> None:
    node, held = (
        Network(SecretKey.generate(), NetworkSettings(listen=("/ip4/127.0.0.1/tcp/0",))),
        Held(played()),
    )
    asked: list[int] = []

    async def artifacts(_asker: bytes, data: bytes) -> bytes:
        task, number = decode_artifacts_request(data, Limits())
        asked.append(number)
        if number == 3:
            return b"\xff"
        return encode_artifacts(Reply(*(held.artifact(text_of(task), number, name) for name in NAMES)))

    node.serve(ARTIFACTS_PROTOCOL, artifacts)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        async with asked_peer(node.addresses[0], game().task) as peer:
            for name in NAMES:
                assert await peer.copies(1, name) == (played().copies[1].of(name)["node-00"],)
            assert asked == [1]
            assert await peer.copies(9, "list") == ()
            with pytest.raises(NetworkError, match="does not hand out round 3"):
                await peer.copies(3, "list")
            assert await peer.seen(1) == ()
        nursery.cancel_scope.cancel()


async def test_a_peer_that_is_not_there() -> None:
    address = f"/ip4/127.0.0.1/tcp/1/p2p/{Network(SecretKey.generate(), NetworkSettings()).peer_id}"
    with pytest.RaisesGroup(
        pytest.RaisesExc(NetworkError, match="does not hand out round 0"), flatten_subgroups=True
    ):
        async with asked_peer(address, game().task) as peer:
            await peer.copies(0, "list")


# --- what is said


@pytest.mark.parametrize("why", Why, ids=lambda why: why.value)
def test_every_reason_can_be_told(why: Why) -> None:
    found = PLAYED[why]()
    names = KeyNames({found.key, *(vote.auditor for vote in (found.audit.votes if found.audit else ()))})
    sentences = [verdict_of(found, names), *reasons_of(found, names)]
    assert why.__doc__ in sentences
    for sentence in sentences:
        assert re.fullmatch(r"[A-Z0-9][^\n]*\.", sentence), sentence
        assert not re.search(r"\bNone\b|\bRoe\b|Why\.|<", sentence), sentence
        assert re.search(r"\b1 (auditors|stakers)\b", sentence) is None
    json.dumps(explanation_json(found, (bytes(64), None)))
    console = Console(width=200, record=True, file=None, quiet=True)
    console.print(explanation_tables(found, (bytes(64), None), names))


@pytest.mark.parametrize(
    ("why", "begins", "says"),
    [
        (
            Why.UNCLAIMED,
            "earned 0.02 KOII",
            "in equal parts to the 5 whose work was approved, is 0.02 KOII each",
        ),
        (Why.SLASH_PENDING, "is to lose 1.33 KOII", "70 % of a stake of 1.9 KOII is 1.33 KOII"),
        (Why.FORFEITED, "was not paid", "Stakers with 5.7 KOII vetoed attempt 0."),
        (Why.LIST_REJECTED, "has not been paid for round 3 yet.", "Attempt 1 may be anchored in slots"),
        (Why.LIST_IN_AUDIT, "has not been paid for round 3 yet.", "It is final from slot"),
        (Why.UNVERIFIABLE, "earned", "The commitment says APPROVED of its work."),
        (Why.NOT_AUDITED, "earned", "Its author is audited in 0.01 % of all rounds."),
        (Why.KOII_TIED, "was not paid", "1 voted for it and 1 against it"),
        (Why.UNDECIDED_SILENCE, "was not paid", "Of 4 auditors drawn, 0 voted."),
        (Why.UNDECIDED_TIE, "was not paid", "Of 4 auditors drawn, 2 voted: 1 VALID, 1 UNAVAILABLE."),
        (Why.CANARY_FOUND, "was not paid", "Its author owned up to known-bad work"),
        (
            Why.APPROVED_ACCUSATION_LAPSED,
            "earned",
            "In the full audit, 26.3 % of the weight that was due voted",
        ),
        (
            Why.UNDECIDED_QUORUM,
            "was not paid",
            "In the full audit, 100 % of the weight that was due voted, and 75 % (1 auditor) said INVALID; a slash "
            "takes more than half of the weight and 3 auditors.",
        ),
    ],
)
def test_some_of_what_is_told(why: Why, begins: str, says: str) -> None:
    found = PLAYED[why]()
    assert verdict_of(found).startswith(f"{text_of(found.key)} {begins}")
    assert says in " ".join(reasons_of(found))


def test_a_value_cannot_draw_on_the_terminal() -> None:
    found = PLAYED[Why.PAID]()
    work = submission(secret(0), "\x1b[2J\n" + "x" * 500)
    hostile = replace(found, submission=work)
    console = Console(width=400)
    with console.capture() as captured:
        console.print(explanation_tables(hostile, (None, None), KeyNames(())))
    line = next(line for line in captured.get().splitlines() if line.startswith("submitted"))
    assert "'\\x1b[2J\\nxxx" in line
    assert "…" in line


# --- names of keys

keys = st.sets(st.binary(min_size=32, max_size=32), min_size=1, max_size=12)


@given(keys)
def test_short_names_are_unambiguous(known: set[bytes]) -> None:
    name = KeyNames(known)
    assert len({name(key) for key in known}) == len(known)
    for key in known:
        assert chosen_key(name(key), known) == key
        assert text_of(key).startswith(name(key)[:-1])


def test_keys_that_begin_alike_get_longer_names() -> None:
    near = {bytes([7]) * 24 + bytes([index]) * 8 for index in range(4)}
    name = KeyNames(near)
    assert {len(name(key)) for key in near} != {SHORTEST + 1}
    assert len({name(key) for key in near}) == 4
    stranger = bytes(31) + b"s"
    assert name(stranger) == text_of(stranger)
