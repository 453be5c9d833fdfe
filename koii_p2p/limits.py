"""Every named limit of the node, in one place: sizes in bytes, times in seconds unless a name says slots."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on everything that comes from outside or can grow. A refusal at a bound is always counted."""

    # records
    record_bytes: int = 64 * 1024
    equivocation_bytes: int = 2 * 64 * 1024 + 1024  # holds two whole records
    record_depth: int = 8
    submission_value_bytes: int = 512  # as on Koii: the on-chain submission string
    ballot_entries: int = 1024
    presence_addresses: int = 16
    address_bytes: int = 256
    software_bytes: int = 64

    # rounds
    parked_records: int = 4096
    rounds_kept: int = 8
    artifact_rounds_kept: int = 5000  # about a month of Koii's usual rounds
    roster_entries: int = 20_000
    round_records: int = 60_000  # of all kinds, in one round of one task
    commitment_bytes: int = 8 * 1024 * 1024
    early_slots: int = 32  # how far two honest slot estimates may be apart
    presences: int = 20_000
    presence_slots: int = 1500  # how old, or early, a presence may be
    records_per_request: int = 1024
    reconcile_message_bytes: int = 256 * 1024  # one question or answer on how record sets differ
    reconcile_round_trips: int = 256  # 60 000 records against as many others take 12

    # storage
    key_file_bytes: int = 4096
    task_value_bytes: int = 1024 * 1024
    task_store_bytes: int = 256 * 1024 * 1024  # all keys and values of one task
    artifact_bytes: int = 64 * 1024 * 1024

    # settlement
    rpc_response_bytes: int = 32 * 1024 * 1024
    rpc_deadline: float = 10.0
    rpc_retries: int = 3
    history_transactions: int = 200_000
    confirmation_seconds: float = 120.0  # 150 slots of 400 ms, and as long again for a node that restarts

    # local K2
    rpc_request_bytes: int = 50 * 1024
    rpc_batch: int = 64
    localk2_connections: int = 512
    localk2_slot_transactions: int = 10_000
    localk2_history_slots: int = (
        1_000_000  # older slots and their transactions are forgotten: 4.6 days of 400 ms
    )
    localk2_subscriptions: int = 256  # of one WebSocket
    localk2_notices: int = 4096  # waiting for one WebSocket; a reader that falls behind is cut off

    # node
    api_connections: int = 64

    # network
    gossip_message_bytes: int = 256 * 1024
    request_bytes: int = 4 * 1024 * 1024
    response_bytes: int = 64 * 1024 * 1024
    request_deadline: float = 10.0
    streams_per_peer: int = 32
    rejects_before_disconnect: int = 20
    ban_seconds: float = 120.0
    misbehaviour_memory: float = 600.0  # a peer's rejects are forgotten when it was quiet for this long
    gossip_rpc_bytes: int = 1024 * 1024  # as every other libp2p implementation
    gossip_rpc_messages: int = 5000
    gossip_seen_ids: int = 200_000
    gossip_seen_seconds: float = 120.0
    gossip_topic_bytes: int = 128
    gossip_topics_per_peer: int = 64
    gossip_queue: int = 512  # forwarded messages waiting for one peer
    gossip_queue_bytes: int = 16 * 1024 * 1024
    publish_pace: int = 64  # an own message waits while a neighbour has this many waiting
    publish_patience: float = 1.0  # but not longer than this for one slow neighbour
    own_messages_held: int = 256  # own messages kept for the first neighbour to subscribe
    peer_stall_seconds: float = (
        15.0  # a peer that takes nothing, or answers no ping, for this long is dropped
    )
    streams_per_connection: int = 128  # opened by one side
    connection_buffer_bytes: int = 32 * 1024 * 1024
    connections_per_peer: int = 4
    connections_per_range: int = 16  # incoming, from one /24 (IPv4) or /56 (IPv6)
    connections_per_private_range: int = 1024  # the same for loopback and private networks
    pending_inbound: int = 64  # incoming connections that have not proved who they are
    negotiation_deadline: float = 10.0
    respond_deadline: float = 60.0  # reading a request, answering it and writing the response
    address_book_peers: int = 4096
    dial_deadline: float = 8.0
    dials_at_once: int = 4
    dial_backoff_first: float = 1.0
    dial_backoff_longest: float = 60.0
    stop_deadline: float = 5.0

    # tasks
    worker_memory_bytes: int = 512 * 1024 * 1024
    worker_call_seconds: float = 30.0  # one submission, audit or distribution
    worker_task_seconds: float = 600.0  # one task(): the work of a round
    worker_start_seconds: float = 20.0  # import, then setup()
    worker_cancel_seconds: float = (
        1.0  # for a call whose time is up to end by itself before the worker is killed
    )
    worker_frame_bytes: int = 8 * 1024 * 1024
    worker_queued_frames: int = 256
    worker_open_requests: int = 64  # a task's unanswered requests to its node
    worker_cpu_seconds: int = 4 * 3600  # of one worker's whole life; a new one starts afterwards
    worker_file_bytes: int = 64 * 1024 * 1024  # one file
    worker_open_files: int = 256
    worker_niceness: int = 5
    worker_restart_seconds: float = 0.5  # doubles with each crash in a row
    worker_restart_seconds_most: float = 60.0
    worker_stable_seconds: float = 120.0  # after this long without a crash the wait starts small again
    worker_audits: int = 8  # at once
    worker_output_bytes: int = 64 * 1024  # printed and logged, per window; the rest is counted and dropped
    worker_output_window_seconds: float = 10.0
    worker_line_bytes: int = 2048
    worker_detail_bytes: int = 1024  # of an exception's text
    task_key_bytes: int = 256
    task_payload_bytes: int = 16 * 1024  # what a task may have signed
