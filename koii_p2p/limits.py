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
    parked_records: int = 4096  # of one round; each properly signed
    parked_per_author: int = 16  # of those: whoever is honest says less in a round
    parked_bytes: int = 16 * 1024 * 1024  # of one round
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

    # collections
    document_bytes: int = 32 * 1024  # the JSON of one document
    document_record_bytes: int = 34 * 1024  # with key, signature and the rest
    tombstone_slots: int = 1_512_000  # a week of 400 ms; a removal is remembered for so long
    collections: int = 64  # of one task at one node
    author_collections: int = 32  # that one key may bring to a node
    task_db_collections: int = 16  # that a task's own code may open at a node
    operator_collections: int = 8  # of all, kept free for who runs the node
    author_documents: int = 100_000  # of one key in one collection at one node
    author_document_bytes: int = 64 * 1024 * 1024
    collection_bytes: int = 256 * 1024 * 1024
    documents_per_request: int = 1024
    document_message_bytes: int = 4 * 1024 * 1024
    query_bytes: int = 64 * 1024
    query_conditions: int = 256
    query_documents: int = 10_000  # that one question may return
    query_result_bytes: int = 32 * 1024 * 1024  # of their records
    query_scan: int = 100_000  # that one question may look at in one node
    change_wait_seconds: float = 5.0  # a peer that has no change to tell answers after this
    document_readers: int = 8  # subscribers of a task at a node: each keeps questions open at peers

    # task data
    data_bytes: int = 8 * 1024 * 1024 * 1024  # shards and manifests of all tasks on one node
    data_task_bytes: int = 4 * 1024 * 1024 * 1024
    data_entries: int = 1_000_000  # shards on one node
    data_author_part: int = 4  # one who brings data has the n-th part of a task's bytes, and of the shards
    data_least_rounds: int = 3  # a blob is kept at least this long
    data_most_rounds: int = 64  # and without being asked for again at most this long
    data_evidence_rounds: int = 64  # commitments and bundles of rounds
    data_message_bytes: int = 2 * 1024 * 1024  # shards in one request or one response
    data_message_shards: int = 64
    data_message_blobs: int = 256  # asked after in one request
    data_manifests_cached: int = 16
    data_at_once: int = 8  # puts and gets of the operator
    data_hedge_seconds: float = 0.5  # another holder is asked beside one who takes longer
    data_upkeep_seconds: float = 60.0
    data_upkeep_blobs: int = 512  # looked after in one turn
    data_patience_seconds: float = 600.0  # a holder that does not answer for this long is replaced
    data_repair_bytes_per_second: int = 4 * 1024 * 1024
    data_liar_seconds: float = 600.0  # who sent wrong bytes is asked for nothing for this long

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
    trace_bytes: int = 64 * 1024 * 1024  # of the file of `join --trace`: some 400 000 records

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
    address_book_saved: int = 1024  # of them on disk
    address_book_file_bytes: int = 4 * 1024 * 1024
    address_book_save_seconds: float = 10.0  # at most once in this time, when it has changed
    dialback_every: float = 30.0  # one peer is dialled back once in this time
    dialbacks_per_minute: int = 30  # of all peers together
    dialback_ports: int = 4
    dialback_deadline: float = 5.0  # of one dial
    reach_peers: int = 4  # how many peers are asked whether they can dial us
    reach_again: float = 900.0  # and when they are asked again
    reach_memory: float = 3600.0  # what they said counts for so long
    relay_reservations: int = 128  # peers that can be reached through us
    relay_reservations_per_range: int = 16  # of one /24 (IPv4) or /56 (IPv6)
    relay_reservation_seconds: float = 3600.0
    relay_circuits: int = 64  # connections that we carry
    relay_circuits_per_peer: int = 8  # of one peer, to it and from it
    relay_circuits_per_pair: int = 2  # from one peer to another
    relay_circuits_per_range: int = 16  # from one public /24 (IPv4) or /56 (IPv6)
    relay_circuit_seconds: float = 600.0
    relay_circuit_bytes: int = 32 * 1024 * 1024  # both directions together
    relays_used: int = 2  # how many relays a node behind a NAT reserves at
    relays_dialled: int = 8  # relays that a node is connected with only to get at peers behind them
    relay_retry: float = 60.0  # a peer that would not relay is asked again after this
    dial_deadline: float = 8.0
    dials_at_once: int = 4
    dial_backoff_first: float = 1.0
    dial_backoff_longest: float = 60.0
    stop_deadline: float = 5.0
    dht_message_bytes: int = 256 * 1024
    dht_value_bytes: int = 64 * 1024
    dht_values: int = 4096  # held for others
    dht_values_bytes: int = 32 * 1024 * 1024
    dht_values_per_peer: int = 256
    dht_provided_keys: int = 65_536
    dht_providers_per_key: int = 64
    dht_provider_records: int = 65_536  # of all keys and peers together
    dht_provided_per_peer: int = 8192
    dht_own_keys: int = 65_536  # that we provide
    dht_deadline: float = 10.0  # of one search, storing what it is for included
    dht_ask_deadline: float = 3.0  # of one question, the dial included
    dht_hedge_seconds: float = 0.4  # after so long without an answer another peer is asked as well
    dht_streams_per_peer: int = 8  # incoming
    dht_requests_per_second: int = 100  # of one peer; whoever asks more waits
    dht_idle_seconds: float = 8.0  # an unused stream is closed
    dht_connections: int = 32  # made for searches only
    dht_connection_seconds: float = 60.0  # and closed after so long without use
    dht_dials_at_once: int = 4
    dht_life_seconds: float = 24 * 3600.0  # of a value or provider that nobody says again
    dht_repeat_seconds: float = 6 * 3600.0  # what is ours is stored again
    dht_replicate_seconds: float = 3600.0  # and what we hold for others, if nobody else has
    dht_refresh_seconds: float = 600.0
    dht_first_walk_seconds: float = 2.0  # doubles with each walk, up to the refresh
    dht_walk_searches: int = 8  # of one walk
    dht_upkeep_at_once: int = 4

    # REST of tasks
    task_http_connections: int = 128
    task_http_connections_per_range: int = 16  # from one public /24 (IPv4) or /56 (IPv6), as the next two
    task_http_connection_seconds: float = 120.0  # its whole life, however slowly its peer reads
    task_http_idle_seconds: float = 10.0  # without a whole head of a request
    task_http_head_bytes: int = 16 * 1024
    task_http_headers: int = 64
    task_http_streams: int = 8  # at once on one connection, in HTTP/2
    task_http_requests: int = 64  # at once, of everybody
    task_http_requests_per_range: int = 8
    task_http_requests_per_second: int = 20  # of one public range; twice as many in one second
    task_http_ranges: int = 4096  # whose requests are counted
    task_http_nodes: int = 256  # of a task, that one answer names
    task_request_bytes: int = 1024 * 1024  # the body of a request
    task_request_seconds: float = 10.0  # until all of it is here
    task_reply_bytes: int = 4 * 1024 * 1024
    task_reply_headers: int = 32
    task_reply_header_bytes: int = 8 * 1024
    task_routes_at_once: int = 16  # requests that one task works on; more are refused
    task_route_seconds: float = 10.0  # one request
    signed_request_slots: int = 150  # how old, or early, a signed request may be
    signed_requests_kept: int = 65_536  # so that none counts twice; more in that time are refused

    # packages of tasks
    package_part_bytes: int = 1024 * 1024  # in one answer
    package_given_peer_bytes: int = 64 * 1024 * 1024  # to one peer in the time below: eight of the largest
    package_given_bytes: int = 1024 * 1024 * 1024  # to all
    package_given_seconds: float = 600.0
    package_readers: int = 8  # questions of peers that are answered from disk at once
    package_askers: int = 4  # peers that we ask at once
    package_peers: int = 64  # that are asked in one turn
    package_peer_seconds: float = 30.0  # for all parts from one peer
    package_fetch_seconds: float = 60.0  # until a node that knows nobody who has it gives up
    package_retry_seconds: float = 2.0  # between turns; doubles up to eight times that
    trust_file_bytes: int = 64 * 1024
    successor_seconds: float = 10.0  # between tries to follow a task to its successor
    successors: int = 8  # that a node follows in one run, each of which it may stake in

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
    worker_processes: int = 1  # of one task; each has its own memory, and all audit
    worker_audits: int = 8  # at once
    worker_output_bytes: int = 64 * 1024  # printed and logged, per window; the rest is counted and dropped
    worker_output_window_seconds: float = 10.0
    worker_line_bytes: int = 2048
    worker_detail_bytes: int = 1024  # of an exception's text
    worker_folder_bytes: int = 512 * 1024 * 1024  # all files of a task's working folder
    worker_folder_files: int = 10_000
    worker_folder_seconds: float = 5.0  # how often the folder is looked at from outside
    task_fact_bytes: int = 4 * 1024 * 1024  # one answer on the task's state, submissions, list or nodes
    task_blob_bytes: int = 4 * 1024 * 1024  # a blob that a task puts or gets; an operator's may be larger
    task_db_bytes: int = 1024 * 1024  # the JSON of a question of a task to its collections, or of the answer
    task_db_documents: int = 1000  # in one of them
    task_db_seconds: float = 30.0  # of one question, waiting for its turn included
    task_db_at_once: int = 4  # of one task; further ones wait
    task_key_bytes: int = 256
    task_payload_bytes: int = 16 * 1024  # what a task may have signed
