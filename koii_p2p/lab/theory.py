"""What theory says of a scenario: a closed form beside each metric that has one, computed from the scenario alone.

Only where the form's assumptions hold: everybody has the same stake, records arrive, and every behaviour in the
population is one whose audits the form knows. Elsewhere nothing is said, rather than something that is not meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from koii_p2p.lab.behaviours.catalogue import HONEST
from koii_p2p.lab.closed_forms import caught_share, mean_score, overruled_by_canaries
from koii_p2p.lab.result import Metric
from koii_p2p.lab.scenario import Group, Scenario
from koii_p2p.rounds.assignment import SAMPLE
from koii_p2p.rounds.audit_rules import BASIS_POINTS, Profile
from koii_p2p.rounds.reputation import REPUTATION_LAG

_KNOWN: Final = ("honest", "fraudulent", "subtle", "lazy", "copier", "colluder", "accuser", "late-accuser")
_WRONG: Final = ("fraudulent", "subtle", "colluder")
_MOST_PUNISHED_SEATS: Final = 112
"""Nodes of which everybody but the author is in the committee of a full audit."""

Theory = Mapping[str, tuple[float, str]]


def with_theory(metrics: Iterable[Metric], scenario: Scenario) -> tuple[Metric, ...]:
    """Metrics with what theory says of them, where it says something."""
    said = theory_of(scenario)
    return tuple(
        replace(one, closed_form=said[one.name][0], formula=said[one.name][1]) if one.name in said else one
        for one in metrics
    )


def theory_of(scenario: Scenario) -> Theory:
    """Value and formula by the name of the metric."""
    if not _is_covered(scenario):
        return {}
    crew = scenario.crew()
    if scenario.protocol.audit.reputation_floor:
        return _canaries(scenario, crew)
    found: dict[str, tuple[float, str]] = {
        "transactions": (2.0, "one commitment and one list, whatever n is")
    }
    if scenario.protocol.audit.profile is Profile.KOII:
        found |= _self_chosen(scenario, crew)
    else:
        found |= _drawn(scenario, crew) | _canaries(scenario, crew)
    return found


def _is_covered(scenario: Scenario) -> bool:
    network, protocol = scenario.network, scenario.protocol
    return (
        all(name in _KNOWN and not group.start_round for group in scenario.population for name in group.names)
        and not protocol.patrols
        and not network.partitions
        and not network.churn.per_minute
    )


def _self_chosen(scenario: Scenario, crew: Sequence[Group]) -> dict[str, tuple[float, str]]:
    """Every node picks `SAMPLE` of n submissions by itself: looks are Binomial(h, k/n)."""
    n = len(crew)
    chance = min(SAMPLE, n) / n
    honest = sum(not group.misbehaves for group in crew)
    # A node skips its own submission, where it picked it.
    lookers = [honest - (not group.misbehaves) for group in crew]
    found = {
        "looks": (chance * sum(lookers) / n, "h k / n: h honest nodes pick k = 5 of n submissions"),
        "unseen": (sum((1 - chance) ** h for h in lookers) / n, "(1 - k/n)^h"),
    }
    frauds = _frauds(crew)
    if frauds:
        whole = sum(weight for weight, _, _ in frauds)
        seen = sum(weight * (1 - (1 - chance * catch) ** honest) for weight, catch, _ in frauds)
        found["detection"] = (
            seen / whole,
            "1 - (1 - c k/n)^h: h honest nodes pick k = 5 of n, a look finds it with c",
        )
    return found


def _drawn(scenario: Scenario, crew: Sequence[Group]) -> dict[str, tuple[float, str]]:
    """m auditors are drawn of all others; one who accuses opens a full audit, in which honest nodes find it."""
    rules = scenario.protocol.audit
    frauds = _frauds(crew)
    if not frauds:
        return {}
    auditors = rules.auditors_among(len(crew) - 1)
    rate = rules.audit_rate / BASIS_POINTS
    whole = sum(weight for weight, _, _ in frauds)
    known: dict[tuple[float, int], float] = {}
    seen = 0.0
    for weight, catch, author in frauds:
        misses = tuple(
            1 - _accuses(crew, other, author) * catch for other in range(len(crew)) if other != author
        )
        key = hash(tuple(sorted(misses))), auditors
        if key not in known:
            known[key] = 1 - all_miss(misses, auditors)
        seen += weight * rate * known[key]
    share = seen / whole
    form = "1 - C(N - d, m) / C(N, m): one of m drawn of N others is among the d who look"
    form = form if rate == 1 else f"p ({form}), audited with p = {rate:g}"
    found = {"detection": (share, form)}
    if len(crew) <= _MOST_PUNISHED_SEATS and all(catch == 1 for _, catch, _ in frauds):
        found |= _punished(crew, [author for _, _, author in frauds], share)
    return found


def _canaries(scenario: Scenario, crew: Sequence[Group]) -> dict[str, tuple[float, str]]:
    """Where nothing is wrong but canaries, and everybody votes on each: what becomes of those who do not look."""
    rules, n = scenario.protocol.audit, len(crew)
    honest = sum(group.names == (HONEST,) for group in crew)
    lazy = next((group for group in scenario.population if group.names == ("lazy",)), None)
    # INVALID from more than half of all others makes a canary; with fewer who look, nobody is overruled.
    looking = 2 * (honest - 1) > n - 1 and honest > rules.quorum
    others = {group.names for group in crew} - {(HONEST,), ("lazy",)}
    if lazy is None or others or n > _MOST_PUNISHED_SEATS:
        return {}
    players = min(round(scenario.protocol.canary_players * n), honest)
    rate, diligence = rules.canary_rate / BASIS_POINTS, float(lazy.parameter("lazy"))
    if diligence and not looking:
        return {}
    chance = overruled_by_canaries(players, rate, diligence) if looking else 0.0
    found = {
        "overruled.lazy": (
            chance,
            "1 - (1 - e (1 - d))^k: one of k players' canaries, where a look has chance d",
        ),
        "reputation.lazy": (mean_score(scenario.rounds, chance), "mean score with that chance in each round"),
    }
    if rules.reputation_floor:
        known = [max(0, number + 1 - REPUTATION_LAG) for number in range(scenario.rounds)]
        scores = [mean_score(rounds, chance) / BASIS_POINTS for rounds in known]
        dearest, floor = rules.audit_rate / BASIS_POINTS, rules.reputation_floor / BASIS_POINTS
        rates = [dearest - max(0.0, dearest - floor) * score for score in scores]
        found["audited.lazy"] = (sum(rates) / len(rates), "a - (a - f) score, the mean over rounds")
    elif looking and rules.audit_rate == BASIS_POINTS:
        share = caught_share(players, rate, rules.auditors_among(n - 1), n - 1) * (1 - diligence)
        found["caught_votes.lazy"] = (share, "e k / (m + e k (1 - m / N)) of votes are on canaries")
    return found


def _punished(crew: Sequence[Group], authors: Sequence[int], share: float) -> dict[str, tuple[float, str]]:
    """A slash takes INVALID from more than half of all others; nothing is said where that is a matter of chance."""
    if any("copier" in group.names for group in crew):
        return {}  # who copies says INVALID too, if those do whom it hears
    verdicts = set()
    for author in authors:
        looks = [_accuses(crew, other, author) for other in range(len(crew)) if other != author]
        if not set(looks) <= {0.0, 1.0}:
            return {}
        verdicts.add(sum(looks) > len(looks) / 2)
    if len(verdicts) != 1:
        return {}
    if verdicts.pop():
        return {
            "punishment": (
                share,
                "as detection: more than half of all look, and a full audit asks all of them",
            )
        }
    return {"punishment": (0.0, "none: it takes more than half of all, and no more than half look")}


def all_miss(misses: Sequence[float], drawn: int) -> float:
    """Chance that all of those drawn without replacement miss, where each misses with a chance of its own.

    The mean over all sets of `drawn` of the product of their chances. With chances of 0 and 1 that is
    C(N - d, m) / C(N, m), the hypergeometric one.
    """
    mean = [1.0] + [0.0] * drawn
    for seen, miss in enumerate(misses, 1):
        for size in range(min(drawn, seen), 0, -1):
            mean[size] = (mean[size] * (seen - size) + mean[size - 1] * size * miss) / seen
    return mean[min(drawn, len(misses))]


def _frauds(crew: Sequence[Group]) -> list[tuple[float, float, int]]:
    """(how often, chance that a look finds it, author) of each node that submits wrong work."""
    found = []
    for number, group in enumerate(crew):
        wrong = [name for name in group.names if name in _WRONG]
        if not wrong:
            continue
        rate = float(group.parameter("fraudulent")) if "fraudulent" in wrong and len(wrong) == 1 else 1.0
        catch = float(group.parameter("subtle")) if "subtle" in wrong else 1.0
        if rate:
            found.append((rate, catch, number))
    return found


def _accuses(crew: Sequence[Group], auditor: int, author: int) -> float:
    """The share of its audits in which an auditor really looks at the work of this author, and says what it sees."""
    group = crew[auditor]
    if "colluder" in group.names and "colluder" in crew[author].names:
        rings = int(group.parameter("colluder"))
        colluders = [number for number, one in enumerate(crew) if "colluder" in one.names]
        if colluders.index(auditor) % rings == colluders.index(author) % rings:
            return 0.0
    return min(float(group.parameter(name)) if name in group.names else 1.0 for name in ("lazy", "copier"))
