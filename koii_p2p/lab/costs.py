"""What a node's processor works for a simulated node: microseconds for each thing it does.

Measured by `scripts/bench/lab.py costs` with one core of a virtual machine (Python 3.11), rounded: a model, so that two
scenarios can be compared and (scenario, seed) gives the same numbers everywhere. The network's cryptography and the
task's own functions are not in it.
"""

from __future__ import annotations

from koii_p2p.lab.observer import Meter

VERIFY_US = 70
SIGN_US = 150
RECORD_US = 60
"""Decoding and judging a record, its signature apart."""
FRAME_IN_US = 10
FRAME_OUT_US = 4
SLOT_US = 60
"""A slot of the round engine."""


def cpu_us(meter: Meter) -> int:
    """Modelled microseconds of processor time for what a node did."""
    return (
        VERIFY_US * meter.verified
        + SIGN_US * meter.signed
        + RECORD_US * meter.records
        + FRAME_IN_US * meter.received_frames
        + FRAME_OUT_US * meter.sent_frames
        + SLOT_US * meter.slots
    )
