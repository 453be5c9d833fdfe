"""What a node answers its peers about the rounds of its tasks: records, how they differ, artifacts, presences."""

from __future__ import annotations

from collections.abc import Mapping

from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.node import exchange
from koii_p2p.node.task_service import TaskService
from koii_p2p.node.views import base58


def serve_rounds(network: Network, services: Mapping[str, TaskService], limits: Limits) -> None:
    """Answer from now on for the tasks in `services`, by their ids in base58, as they are when somebody asks."""

    def of(task: bytes) -> TaskService:
        service = services.get(base58(task))
        if service is None:
            raise exchange.ExchangeError("We do not work on this task.")
        return service

    async def records(_asker: bytes, data: bytes) -> bytes:
        request = exchange.decode_records_request(data, limits)
        return of(request.task).records(request)

    async def reconcile(_asker: bytes, data: bytes) -> bytes:
        task, number, question = exchange.decode_reconcile(data, limits)
        return of(task).reconcile(number, question)

    async def artifacts(_asker: bytes, data: bytes) -> bytes:
        task, number = exchange.decode_artifacts_request(data, limits)
        return of(task).artifacts(number)

    async def presences(_asker: bytes, data: bytes) -> bytes:
        return of(exchange.decode_presence_request(data, limits)).presences()

    network.serve(exchange.RECONCILE_PROTOCOL, reconcile)
    network.serve(exchange.RECORDS_PROTOCOL, records)
    network.serve(exchange.ARTIFACTS_PROTOCOL, artifacts)
    network.serve(exchange.PRESENCE_PROTOCOL, presences)
