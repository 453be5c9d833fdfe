"""Every named limit of the node, in one place: sizes in bytes, times in seconds unless a name says slots."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on everything that comes from outside or can grow. A refusal at a bound is always counted."""

    # records
    record_bytes: int = 64 * 1024
    record_depth: int = 8
    submission_value_bytes: int = 512  # as on Koii: the on-chain submission string
    ballot_entries: int = 1024
    presence_addresses: int = 16
    address_bytes: int = 256

    # rounds
    parked_records: int = 4096
    rounds_kept: int = 8
    roster_entries: int = 20_000

    # storage
    task_value_bytes: int = 1024 * 1024
    artifact_bytes: int = 64 * 1024 * 1024

    # settlement
    rpc_response_bytes: int = 32 * 1024 * 1024
    rpc_deadline: float = 10.0
    rpc_retries: int = 3

    # local K2
    rpc_request_bytes: int = 50 * 1024
    rpc_batch: int = 64

    # network
    gossip_message_bytes: int = 256 * 1024
    request_bytes: int = 4 * 1024 * 1024
    response_bytes: int = 64 * 1024 * 1024
    request_deadline: float = 10.0
    streams_per_peer: int = 32
    rejects_before_disconnect: int = 20

    # tasks
    worker_memory_bytes: int = 512 * 1024 * 1024
    worker_call_seconds: float = 30.0
    worker_frame_bytes: int = 8 * 1024 * 1024
