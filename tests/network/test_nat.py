"""Nodes behind real NATs: network namespaces, routers that masquerade, and drop what nobody inside has asked for.

    home1 192.168.1.2 - router1 45.0.1.2 - 45.0.1.1 \\
                                                     internet (a router; the relay runs here)
    home2 192.168.2.2 - router2 45.0.2.2 - 45.0.2.1 /  \\ 45.0.3.1 - 45.0.3.2 public

It needs root, `ip` and `iptables`; where they are missing it is skipped. The namespaces are gone afterwards.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PORT = 4001
COMMAND_SECONDS = 15.0


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=COMMAND_SECONDS)


def why_not() -> str:
    """Why no namespaces can be made here; empty if they can."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    missing = [tool for tool in ("ip", "iptables") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} is not installed"
    name = f"koii-probe-{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
    except (subprocess.SubprocessError, OSError) as error:
        return f"`ip netns add` does not work: {error}"
    try:
        run("ip", "netns", "exec", name, "iptables", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE")
    except (subprocess.SubprocessError, OSError) as error:
        return f"iptables cannot masquerade: {error}"
    finally:
        run("ip", "netns", "del", name)
    return ""


class Place:
    """A network namespace."""

    def __init__(self, name: str) -> None:
        self.name = f"koii-{os.getpid()}-{name}"
        run("ip", "netns", "add", self.name)
        self.do("ip", "link", "set", "lo", "up")

    def do(self, *words: str) -> None:
        run("ip", "netns", "exec", self.name, *words)

    def forward(self) -> None:
        self.do("sysctl", "-qw", "net.ipv4.ip_forward=1")

    def default(self, gateway: str) -> None:
        self.do("ip", "route", "add", "default", "via", gateway)

    def remove(self) -> None:
        subprocess.run(
            ("ip", "netns", "del", self.name), capture_output=True, timeout=COMMAND_SECONDS, check=False
        )


def cable(number: int, one: Place, address: str, other: Place, far: str) -> None:
    names = (f"k{os.getpid() % 100000}a{number}", f"k{os.getpid() % 100000}b{number}")
    run("ip", "link", "add", names[0], "type", "veth", "peer", "name", names[1])
    for place, name, ip in ((one, names[0], address), (other, names[1], far)):
        run("ip", "link", "set", name, "netns", place.name)
        place.do("ip", "addr", "add", f"{ip}/24", "dev", name)
        place.do("ip", "link", "set", name, "up")


class World:
    """The topology above."""

    def __init__(self, stack: ExitStack, keeps_ports: bool) -> None:
        def place(name: str) -> Place:
            made = Place(name)
            stack.callback(made.remove)
            return made

        self.internet, self.public = place("internet"), place("public")
        self.routers, self.homes = [place("router1"), place("router2")], [place("home1"), place("home2")]
        self.internet.forward()
        cable(0, self.internet, "45.0.3.1", self.public, "45.0.3.2")
        self.public.default("45.0.3.1")
        for number, (router, home) in enumerate(zip(self.routers, self.homes, strict=True), 1):
            cable(2 * number, self.internet, f"45.0.{number}.1", router, f"45.0.{number}.2")
            cable(2 * number + 1, router, f"192.168.{number}.1", home, f"192.168.{number}.2")
            router.forward()
            router.default(f"45.0.{number}.1")
            home.default(f"192.168.{number}.1")
            ports = () if keeps_ports else ("--random-fully",)
            outside = ("-s", f"192.168.{number}.0/24", "!", "-d", f"192.168.{number}.0/24")
            router.do("iptables", "-t", "nat", "-A", "POSTROUTING", *outside, "-j", "MASQUERADE", *ports)
            for chain in ("INPUT", "FORWARD"):
                router.do(
                    "iptables", "-A", chain, "-m", "state", "--state", "ESTABLISHED,RELATED", "-j", "ACCEPT"
                )
                router.do("iptables", "-A", chain, "-s", f"192.168.{number}.0/24", "-j", "ACCEPT")
                router.do("iptables", "-A", chain, "-j", "DROP")

    def open_port(self, number: int) -> None:
        """What an operator does in the router: forward the port to the node."""
        router, home = self.routers[number - 1], f"192.168.{number}.2"
        to_router = ("-p", "tcp", "-d", f"45.0.{number}.2", "--dport", str(PORT))
        router.do(
            "iptables", "-t", "nat", "-A", "PREROUTING", *to_router, "-j", "DNAT", "--to", f"{home}:{PORT}"
        )
        router.do("iptables", "-I", "FORWARD", "-p", "tcp", "-d", home, "--dport", str(PORT), "-j", "ACCEPT")


def remove_left_over() -> None:
    """Remove the namespaces of runs that were killed before they could."""
    listed = subprocess.run(
        ("ip", "netns", "list"), capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True
    )
    for name in re.findall(r"^(koii-\d+-\w+)", listed.stdout, re.MULTILINE):
        if not Path("/proc", name.split("-")[1]).exists():
            run("ip", "netns", "del", name)


@contextmanager
def world(keeps_ports: bool = True) -> Iterator[World]:
    remove_left_over()
    with ExitStack() as stack:
        yield World(stack, keeps_ports)


class Node:
    """A node process in a namespace."""

    def __init__(self, place: Place, seed: int, bootstrap: str = "", relay: bool = False) -> None:
        words = [str(seed), f"/ip4/0.0.0.0/tcp/{PORT}", bootstrap, "relay" if relay else ""]
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", place.name, sys.executable, "-m", "tests.network.nat_node", *words],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        said = self._read()
        self.key, self.addresses = said["key"], said["addresses"]

    def _read(self) -> Any:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith(('{"', "[", '"', "null", "true", "false")) or line.strip().isdecimal():
                return json.loads(line)
        raise AssertionError("the node has ended")

    def ask(self, do: str, **more: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def node(place: Place, seed: int, bootstrap: str = "", *, relay: bool = False) -> Iterator[Node]:
    running = Node(place, seed, bootstrap, relay)
    try:
        yield running
    finally:
        running.stop()


def until(look: Callable[[], Any], good: Callable[[Any], bool], seconds: float = 40.0) -> Any:
    ends = time.monotonic() + seconds
    while not good(found := look()) and time.monotonic() < ends:
        time.sleep(0.2)
    assert good(found), found
    return found


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)


def relayed(report: dict[str, Any]) -> list[str]:
    return [text for text in report["addresses"] if "/p2p-circuit/" in text]


@pytest.mark.parametrize("keeps_ports", [True, False], ids=["NATs that keep ports", "NATs with random ports"])
def test_nodes_behind_two_nats_take_part_and_reach_each_other(keeps_ports: bool) -> None:
    with world(keeps_ports) as there, node(there.internet, 1, relay=True) as relay:
        address = next(text for text in relay.addresses if text.startswith("/ip4/45.0.3.1/"))
        with (
            node(there.public, 2, address) as public,
            node(there.homes[0], 3, address) as one,
            node(there.homes[1], 4, address) as two,
        ):
            # Each behind a NAT finds out that nobody can dial it, and then has a place at the relay.
            for hidden, number in ((one, 1), (two, 2)):
                report = until(partial(hidden.ask, "reach"), lambda said: said["relays"])
                assert report["access"] == "private"
                assert {verdict["place"] for verdict in report["verdicts"]} == {
                    f"/ip4/45.0.{number}.2/tcp/{PORT}"
                }
                assert not any(verdict["reached"] for verdict in report["verdicts"])
                assert "no answer" in report["verdicts"][0]["why"]
                assert report["dialled_in"] == []
                # What is behind the NAT is not told to anybody.
                assert relayed(report) == report["addresses"] != []
                assert report["listening"] == [f"/ip4/192.168.{number}.2/tcp/{PORT}"]
            report = until(lambda: relay.ask("reach"), lambda said: said["relay"]["reservations"] == 2)
            assert report["access"] == "public"
            # Gossip, in and out of each NAT.
            for place, text in ((one, "one"), (two, "two"), (public, "public")):
                place.ask("publish", text=f"from {text}")
            wanted = {"from one", "from two", "from public"}
            for place, text in ((one, "one"), (two, "two"), (public, "public")):
                others = wanted - {f"from {text}"}
                until(partial(place.ask, "received"), others.issubset)
            # Requests to and from a node behind a NAT.
            assert one.ask("request", key=relay.key, text="out") == "out"
            assert relay.ask("request", key=one.key, text="in") == "in"
            # From one home to the other: through the relay at first.
            assert all(peer["key"] != two.key for peer in one.ask("peers"))
            one.ask("learn", key=two.key, addresses=relayed(two.ask("reach")))
            assert one.ask("request", key=two.key, text="next door") == "next door"
            assert two.ask("request", key=one.key, text="and back") == "and back"
            assert relay.ask("reach")["relay"]["carried"] == 1

            def remote() -> str:
                (link,) = [peer for peer in one.ask("peers") if peer["key"] == two.key]
                return str(link["remote"])

            if keeps_ports:
                # Then they dial each other at once, and need the relay no more.
                until(remote, lambda said: said.startswith("/ip4/45.0.2.2/tcp/"))
                until(partial(relay.ask, "reach"), lambda said: said["relay"]["circuits"] == 0, 70)
            else:
                until(partial(two.ask, "reach"), lambda said: said["hole_punches"]["tried"] >= 1)
                assert two.ask("reach")["hole_punches"]["punched"] == 0
                assert remote().endswith("/p2p-circuit")
            assert one.ask("request", key=two.key, text="again") == "again"
            assert two.ask("request", key=one.key, text="and back again") == "and back again"
            one.ask("publish", text="at last")
            until(partial(two.ask, "received"), lambda said: "at last" in said)
            assert {place.ask("reach")["access"] for place in (one, two)} == {"private"}
            # Somebody of the Internet reaches it as well.
            public.ask("learn", key=two.key, addresses=relayed(two.ask("reach")))
            assert public.ask("request", key=two.key, text="hello") == "hello"


def test_a_port_that_was_opened_in_the_router_is_found_and_told_to_others() -> None:
    with world() as there, node(there.internet, 1, relay=True) as relay:
        address = next(text for text in relay.addresses if text.startswith("/ip4/45.0.3.1/"))
        with node(there.public, 2) as public, node(there.homes[0], 3, address) as home:
            until(lambda: home.ask("reach"), lambda said: said["access"] == "private" and said["relays"])
            there.open_port(1)
            home.ask("dial back", key=relay.key)
            report = until(lambda: home.ask("reach"), lambda said: said["access"] == "public")
            place = f"/ip4/45.0.1.2/tcp/{PORT}"
            assert report["confirmed"] == [place]
            assert [text.rpartition("/p2p/")[0] for text in report["addresses"]] == [place]
            public.ask("learn", key=home.key, addresses=report["addresses"])
            assert public.ask("request", key=home.key, text="at home") == "at home"
            (link,) = [peer for peer in public.ask("peers") if peer["key"] == home.key]
            assert link["remote"] == place
