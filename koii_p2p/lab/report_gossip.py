"""What a report says of who takes part in an attack on gossip."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from koii_p2p.lab.experiment import Experiment
from koii_p2p.lab.scenario import Attack


def attackers(experiment: Experiment) -> str:
    """Honest nodes, sybils and messages, as HTML; what differs between arms is given as a range."""
    attacks = [arm.scenario.attack for arm in experiment.arms]

    def said(of: Callable[[Attack], float]) -> str:
        low, high = min(map(of, attacks)), max(map(of, attacks))
        return f"{low:g}" if low == high else f"{low:g} to {high:g}"

    late = any(attack.sybils_at_seconds for attack in attacks)
    covert = any(attack.attack_at_seconds for attack in attacks)
    rows = {
        "honest nodes": f"{said(lambda one: one.honest)}; each dials {said(lambda one: one.links)} others, so that it "
        f"is linked to about twice as many honest ones. Links take {said(lambda one: one.latency_ms)} ms one way, and "
        "up to a tenth more or less",
        "sybils": f"{said(lambda one: one.sybils)}, each linked to {said(lambda one: one.sybil_links)} honest nodes. "
        + (
            f"They come {said(lambda one: one.sybils_at_seconds)} s after the start"
            if late
            else "They are there from the start"
        )
        + (
            f", forward messages as they should until {said(lambda one: one.attack_at_seconds)} s after it, and "
            "nothing from then on"
            if covert
            else ", and forward nothing"
        )
        + f". One that is pruned grafts again after {said(lambda one: one.regraft_back_off_seconds)} s and up to "
        f"{said(lambda one: one.regraft_delay_seconds)} s more, which is no offence",
        "messages": f"{said(lambda one: one.messages_per_second)} a second of {said(lambda one: one.message_bytes)} "
        f"bytes, from {said(lambda one: one.warm_seconds)} s after the start for "
        f"{said(lambda one: one.run_seconds)} s, by {said(lambda one: min(one.publishers, one.honest))} of the honest "
        "nodes in turn",
    }
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}.</dd>" for name, text in rows.items())
    return f"<h3>Who takes part</h3><dl>{listed}</dl>"
