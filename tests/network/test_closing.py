"""A network that is being closed can still be asked how it is, as the API of its node does."""

from __future__ import annotations

import json
from collections import Counter

import trio

from koii_p2p.network.network import Network, NetworkSettings
from koii_p2p.node.views import peer_view, plain
from koii_p2p.records.keys import SecretKey
from tests.network.nets import LOOPBACK, QUICK, until


class Asker(trio.abc.Instrument):
    """Asks a network for all that is shown of it, after every step of every task."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.answers: Counter[str] = Counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        network = self._network
        try:
            shown = [
                *(network.addresses, network.observed, network.listening),
                *(plain(network.statistics()), plain(network.reach())),
                [peer_view(peer) for peer in network.peers()],
            ]
            json.dumps(shown, allow_nan=False).encode()
            self.answers["listens" if network.addresses else "does not listen"] += 1
        except Exception as error:  # noqa: BLE001 - an instrument that raises is only switched off
            self.answers[repr(error)] += 1


async def test_a_network_answers_at_every_moment_until_it_is_closed() -> None:
    async with trio.open_nursery() as nursery:
        network, other = (
            Network(SecretKey.from_seed(bytes((n,)) * 32), NetworkSettings(listen=LOOPBACK), QUICK)
            for n in (1, 2)
        )
        asker = Asker(network)
        trio.lowlevel.add_instrument(asker)
        await nursery.start(network.run)
        await nursery.start(other.run)
        other.learn(network.key, [network.addresses[0].partition("/p2p/")[0]])
        await until(lambda: bool(network.peers()))
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(asker)
    assert set(asker.answers) == {"listens", "does not listen"}
