"""Words of a report: headings of metrics, and values with units that people read."""

from __future__ import annotations

from typing import Final

from koii_p2p.amounts import ROE_PER_KOII

SHARE: Final = "share"
"""The unit of metrics that are successes out of trials."""

TITLES: Final = {
    "wrong_work": "Work that is wrong",
    "detection": "Wrong work found",
    "punishment": "Wrong work rejected and slashed",
    "paid_fraud": "Wrong work approved and paid",
    "wrong_rejections": "Right work rejected",
    "wrong_slashes": "Honest nodes slashed",
    "vote_coverage": "Due votes that were counted",
    "looks": "Honest looks at a submission",
    "unseen": "Submissions nobody honest looked at",
    "time_to_detection": "Time until wrong work is called out (mean)",
    "time_to_detection_p50": "Time until wrong work is called out (median)",
    "time_to_detection_p99": "Time until wrong work is called out (99th percentile)",
    "settled": "Rounds settled",
    "settled_at_once": "Rounds settled at the first attempt",
    "splits": "Rounds with a split",
    "delivery": "Records delivered",
    "propagation_p50": "Time until half of the nodes have a record",
    "propagation_p99": "Time until 99 of 100 nodes have a record",
    "propagation_last": "Time until the last node has a record",
    "duplicates": "Duplicates per message",
    "delivered": "Messages delivered to honest nodes",
    "in_time": "Delivered within 6 s",
    "delivered_worst": "Delivered, in the worst 10 s",
    "latency_p50": "Latency (median)",
    "latency_p99": "Latency (99th percentile)",
    "latency_last": "Latency (slowest delivery)",
    "copies": "Copies sent for a delivery",
    "honest_mesh": "Honest peers in meshes at the end",
    "eclipsed": "Nodes with nobody honest in their mesh",
    "sent_bytes": "Sent by a node in a round",
    "received_bytes": "Received by a node in a round",
    "cpu": "Processor time of a node in a round",
    "verified": "Signatures checked by a node in a round",
    "transactions": "K2 transactions of a round",
    "chain_bytes": "Bytes on K2 of a round",
    "fees": "Fees on K2 of a round",
    "settlements": "Slashes taken on K2 in a round",
    "records": "Records of a round",
    "slots_to_list": "From commitment to list",
}
"""Headings of metrics; what is not here is headed with its name."""

_SETTINGS: Final = {
    "network.nodes": "nodes (count)",
    "network.churn.per_minute": "how often a node leaves (times a minute)",
    "attack.honest": "honest nodes (count)",
    "attack.sybils": "sybils (count)",
    "attack.sybil_links": "honest nodes that a sybil is linked to (count)",
    "protocol.auditors": "auditors drawn for a submission (count)",
    "protocol.audit_rate": "submissions that are audited (share)",
    "economy.stake": "stake of a node (KOII)",
    "economy.bounty": "bounty of a round (KOII)",
}
"""What axes of plots are headed with; others with the name of the setting."""

_OF_BEHAVIOURS: Final = {
    "profit": "Profit of {} nodes in a round",
    "wrong_votes": "Wrong votes of {} nodes",
    "caught_votes": "Votes of {} nodes that are proved wrong",
    "overruled": "Rounds in which {} nodes are OVERRULED",
    "reputation": "Reputation of {} nodes at the end",
    "audited": "Work of {} nodes that is audited",
}
"""Headings of metrics that there are for each behaviour, by what is before the dot of their names."""

_UNITS: Final = {SHARE: "%", "us": "ms", "Roe": "KOII", "bytes": "KiB"}
_DIVISORS: Final = {"us": 1000.0, "Roe": float(ROE_PER_KOII), "bytes": 1024.0}


def metric_title(name: str) -> str:
    """What a metric is headed with."""
    if name in TITLES:
        return TITLES[name]
    first, _, rest = name.partition(".")
    return (
        _OF_BEHAVIOURS[first].format(rest) if first in _OF_BEHAVIOURS else name.replace("_", " ").capitalize()
    )


def setting_title(setting: str) -> str:
    """What the axis of a setting is headed with."""
    if setting in _SETTINGS:
        return _SETTINGS[setting]
    path = setting.split(".")
    if path[0] == "population" and path[-1] in (path[1], "share"):
        return f"{path[1]} nodes (share of all)"
    return setting


def unit_of(unit: str) -> str:
    """The unit that a value is shown in."""
    return _UNITS.get(unit, unit)


def scaled(value: float, unit: str) -> float:
    """A value in the unit that it is shown in; shares stay from 0 to 1, which plots turn into percents."""
    return value / _DIVISORS.get(unit, 1.0)


def number(value: float | None, unit: str) -> str:
    """A value as people read it, without its unit; a dash for none."""
    if value is None:
        return "-"
    found = value * 100 if unit == SHARE else scaled(value, unit)
    if found == 0:
        return "0"
    if unit == SHARE:
        # 99.97 % is not 100 %, and 0.02 % is not none.
        return f"{found:.0f}" if found in (0, 100) else f"{found:.3g}" if found < 99 else f"{found:.4g}"
    return f"{found:,.0f}" if abs(found) >= 1000 else f"{found:.3g}"


def with_unit(value: float | None, unit: str) -> str:
    """A value with its unit."""
    return "-" if value is None else f"{number(value, unit)} {unit_of(unit)}"


def interval(low: float | None, high: float | None, unit: str) -> str:
    """Two bounds: "91 to 97"; empty where there are none, or they are the same."""
    if low is None or high is None or low == high:
        return ""
    first, last = number(low, unit), number(high, unit)
    return "" if first == last else f"{first} to {last}"


PARTS: Final = {
    "What audits come to": (
        "detection", "punishment", "paid_fraud", "wrong_rejections", "wrong_slashes", "vote_coverage", "looks",
        "unseen",
        "wrong_work",
    ),
    "How soon": ("time_to_detection", "time_to_detection_p50", "time_to_detection_p99"),
    "Settlement": ("settled", "settled_at_once", "splits"),
    "How records spread": ("delivery", "propagation_p50", "propagation_p99", "propagation_last", "duplicates"),
    "How messages spread under attack": (
        "delivered", "in_time", "delivered_worst", "latency_p50", "latency_p99", "latency_last", "copies",
    ),
    "Who holds the meshes": ("honest_mesh", "eclipsed"),
    "What it costs a node": ("sent_bytes", "received_bytes", "cpu", "verified"),
    "What it costs on K2": ("transactions", "chain_bytes", "fees", "settlements", "records"),
    "What becomes of each behaviour": ("wrong_votes", "caught_votes", "overruled", "reputation", "audited"),
    "What each behaviour earns": ("profit",),
}  # fmt: skip
"""Sections of a table of metrics, and the metrics of each, by what is before the dot of their names."""
_OTHER: Final = "More"


def is_metric(name: str) -> bool:
    """Whether reports have a place for such a metric."""
    return part_of(name) != _OTHER


def part_of(name: str) -> str:
    """The section that a metric stands in."""
    first = name.partition(".")[0]
    return next((part for part, names in PARTS.items() if first in names), _OTHER)
