"""What theory says about audits, gossip, lookups and storage: the numbers that every experiment is held against.

Chances that are counted are exact (`Fraction`); what has a logarithm or an exponential in it is a float. Chances are
from 0 to 1, times and sizes in the units of their arguments. Everything raises ValueError for arguments that make no
sense.

Each form rests on assumptions, and a protocol may do better on purpose. What koii_p2p does instead is said beside the
form, and tested beside it in `tests/lab/test_closed_forms.py`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from itertools import product
from math import comb

from koii_p2p.data.durability import loss_probability
from koii_p2p.data.erasure import Code
from koii_p2p.rounds.reputation import REPUTATION_LAG, REPUTATION_ROUNDS, RoundStanding, reputations
from koii_p2p.rounds.tally import AuditorStatus

# --- what the forms are made of


def binomial(trials: int, chance: Fraction, successes: int) -> Fraction:
    """Chance of exactly so many successes in independent trials."""
    _count("trials", trials)
    _chance("chance", chance)
    if not 0 <= successes <= trials:
        return Fraction(0)
    return comb(trials, successes) * chance**successes * (1 - chance) ** (trials - successes)


def binomial_tail(trials: int, chance: Fraction, least: int) -> Fraction:
    """Chance of at least so many successes: a committee drawn from a population without end is captured.

    Ethereum chose the size of its committees by it: of 111 with a third dishonest, two thirds are with a chance
    below 2^-40. Drawing without replacement, as here, is safer (`hypergeometric_tail`).
    """
    _count("trials", trials)
    return sum((binomial(trials, chance, k) for k in range(max(0, least), trials + 1)), Fraction(0))


def hypergeometric(population: int, bad: int, drawn: int, hits: int) -> Fraction:
    """Chance of exactly so many bad ones among those drawn without replacement."""
    _part("bad", bad, "population", population)
    _part("drawn", drawn, "population", population)
    if not 0 <= hits <= drawn or drawn - hits > population - bad:
        return Fraction(0)
    return Fraction(comb(bad, hits) * comb(population - bad, drawn - hits), comb(population, drawn))


def hypergeometric_tail(population: int, bad: int, drawn: int, least: int) -> Fraction:
    """Chance of at least `least` bad ones among `drawn`: the capture of a committee that is drawn with equal weights.

    Majorities of small committees are not safe: of 100 with 33 bad, five have a bad majority in every fifth draw.
    So the first auditors only accuse, and whoever accuses opens a full audit by 111 more (`assignment.COMMITTEE`);
    where no more than that are in the roster, everybody else votes, and only a bad majority of all can win.
    """
    return sum(
        (hypergeometric(population, bad, drawn, k) for k in range(max(0, least), drawn + 1)), Fraction(0)
    )


def majority(seats: int) -> int:
    """The least number of seats that is more than half."""
    return seats // 2 + 1


def two_thirds(seats: int) -> int:
    """The least number of seats that is two thirds or more."""
    return -(-2 * seats // 3)


# --- audits


def looks(submissions: int, sample: int, lookers: int, count: int) -> Fraction:
    """Chance that one submission is looked at `count` times when each of `lookers` picks `sample` of all by itself.

    Koii's public client does that (`validateAndVoteOnNodes`): looks are Binomial(h, k / n), nearly Poisson(k h / n).
    """
    _count("submissions", submissions, 1)
    return binomial(lookers, Fraction(min(sample, submissions), submissions), count)


def seen_by_somebody(submissions: int, sample: int, lookers: int) -> Fraction:
    """Chance that a submission is looked at at all by those who pick for themselves: `1 - (1 - k / n)^h`."""
    return 1 - looks(submissions, sample, lookers, 0)


def caught_by_auditors(others: int, diligent: int, auditors: int) -> Fraction:
    """Chance that at least one of the auditors drawn is diligent: `1 - C(N - aN, m) / C(N, m)`.

    `others` are all who can be drawn, so that the author is not among them; weights are equal. With stakes as weights
    it holds for the stake in the limit of many keys.
    """
    return 1 - hypergeometric(others, diligent, min(auditors, others), 0)


def spot_check_finds(items: int, wrong: int, sample: int) -> Fraction:
    """Chance that a sample of different items has a wrong one in it: `1 - C(M - f, s) / C(M, s)`.

    `tasks.audits.sample_indices` draws so. Challenges of a stored shard (`data.challenge`) may draw one leaf twice:
    they find it with `1 - (1 - f / M)^s`, which is less.
    """
    return 1 - hypergeometric(items, wrong, min(sample, items), 0)


def samples_for(share: float, confidence: float) -> int:
    """How many items of a long list to look at, to find a wrong share with a confidence: (1 - f)^s <= 1 - c.

    The least such s: 1 % wrong takes 459 for 99 %.
    """
    if not 0 < share <= 1 or not 0 <= confidence < 1:
        raise ValueError(f"no sample finds a share of {share} with confidence {confidence}")
    return 1 if share == 1 else max(1, math.ceil(math.log1p(-confidence) / math.log1p(-share)))


def copier_accuracy(accuracy: Fraction, prior: Fraction, *, sealed: bool) -> Fraction:
    """How often an auditor is right that does no work itself.

    With open ballots it waits and copies, and is right as often as whom it copies (`accuracy`). With sealed ones there
    is nothing to copy: it says of all what is true of most, and is right with the `prior` chance of good work, or of
    bad.
    """
    _chance("accuracy", accuracy)
    _chance("prior", prior)
    return max(prior, 1 - prior) if sealed else accuracy


def missed_by_copied_votes(diligent: int, accuracy: Fraction) -> Fraction:
    """Chance that bad work passes `diligent` auditors and any number that copy them: `(1 - accuracy)^diligent`.

    Votes that are copied are no more votes: what counts is how many looked.
    """
    _count("diligent", diligent)
    _chance("accuracy", accuracy)
    return (1 - accuracy) ** diligent


def honesty_threshold(cost: Fraction, reward: Fraction, slash: Fraction, colluding: Fraction) -> Fraction:
    """Audit rate above which honest work pays better than none: `p > C / ((1 - r) (R + S))`, proof of sampling.

    `cost`, `reward` and `slash` in one unit, per round; `colluding` is the chance r that an audit finds nothing because
    the auditors are the cheater's. Honest work earns R - C; none earns R, and -S with chance p (1 - r). With m auditors
    of whom one is enough to find it, r is the chance that all m collude, `1 - caught_by_auditors`.
    Source: arXiv:2405.00295. A result above 1 says that no audit rate will do.
    """
    if cost < 0 or reward < 0 or slash < 0 or not 0 <= colluding < 1 or reward + slash == 0:
        raise ValueError(
            "amounts are not negative, something is at stake, and not every audit is the cheater's"
        )
    return cost / ((1 - colluding) * (reward + slash))


def ground(chance: Fraction, tries: int) -> Fraction:
    """Chance that one of so many independent draws is as somebody wants it: `1 - (1 - p)^g`.

    Auditors here are drawn by the author's key and a beacon that comes later: another submission is no other draw. Who
    wants more tries needs more keys, each with a stake of its own.
    """
    _chance("chance", chance)
    _count("tries", tries)
    return 1 - (1 - chance) ** tries


def overruled_by_canaries(players: int, rate: float, diligence: float = 0.0) -> float:
    """Chance that a round proves that an auditor does not look: `1 - (1 - e (1 - d))^k`.

    Each of k players hands in known-bad work with chance e, and where everybody votes in full audits an auditor who
    looks with chance d calls it VALID with 1 - d. Truebit's forced errors (arXiv:1908.04756), with one vote on each.
    """
    _count("players", players)
    _chance("rate", rate)
    _chance("diligence", diligence)
    return float(1 - (1 - rate * (1 - diligence)) ** players)


def caught_share(players: int, rate: float, auditors: int, others: int) -> float:
    """Share of the votes of an auditor that never looks on which canaries prove it: `e k / (m + e k (1 - m / N))`.

    A round asks it for m votes on average, and for one more on each canary that it was not drawn for; N can be drawn.
    """
    _count("players", players)
    _chance("rate", rate)
    _part("auditors", auditors, "others", others)
    _count("auditors", auditors, 1)
    canaries = rate * players
    return canaries / (auditors + canaries * (1 - auditors / others))


def mean_score(rounds: int, overruled: float) -> float:
    """Mean reputation (basis points) after so many rounds, of a key that is overruled in each with this chance.

    Its rounds are good otherwise. Exact: the mean over all 2^r patterns of the r rounds that count, by the rule itself
    (`rounds.reputation`). For many rounds it is near 10000 (1 - p) / (1 + 4 p).
    """
    _count("rounds", rounds)
    _chance("overruled", overruled)
    count = min(rounds, REPUTATION_ROUNDS)
    return sum(
        overruled**bad * (1 - overruled) ** (count - bad) * total for bad, total in enumerate(_scores(count))
    )


@cache
def _scores(rounds: int) -> tuple[int, ...]:
    """By number of rounds in which a key is overruled: the sum of its scores over all patterns of them."""
    key, totals = b"", [0] * (rounds + 1)
    for pattern in product((AuditorStatus.DILIGENT, AuditorStatus.OVERRULED), repeat=rounds):
        standings = (RoundStanding(number, {}, {key: status}) for number, status in enumerate(pattern))
        found = reputations(rounds - 1 + REPUTATION_LAG, standings)
        totals[pattern.count(AuditorStatus.OVERRULED)] += found[key].score if found else 0
    return tuple(totals)


# --- gossip


def copies_sent(mean_degree: float, nodes: int) -> float:
    """Copies of one message that a mesh sends, to reach all others: `N d - (N - 1)` with mean degree d.

    Each node forwards to its mesh but the peer that brought the message; the publisher to all its mesh. Exact for
    meshes that are symmetric and whole, without flood publishing, IDONTWANT, and answers to IWANT.
    """
    _count("nodes", nodes, 2)
    if mean_degree < 1:
        raise ValueError(f"a mesh of mean degree {mean_degree} reaches nobody")
    return nodes * mean_degree - (nodes - 1)


def duplicate_bounds(mean_degree: float) -> tuple[float, float]:
    """Copies beyond the first that a node gets of a message: from `d / 2 - 1` to `d - 1`.

    A link carries each message once at least and twice at most. (Vac's study has D - 2 above, for a fixed degree.)
    Source: vac.dev, "GossipSub improvements", 2025; probelab's model of (d - 2) / 2 is the lower one.
    """
    if mean_degree < 2:
        raise ValueError(f"a mesh of mean degree {mean_degree} has no duplicates")
    return mean_degree / 2 - 1, mean_degree - 1


def least_hops(nodes: int, degree: float) -> float:
    """Hops that a message needs at least to reach the last of so many: `log(N) / log(D - 1)`."""
    _count("nodes", nodes, 2)
    if degree <= 2:
        raise ValueError(f"a mesh of degree {degree} does not branch")
    return math.log(nodes) / math.log(degree - 1)


def dissemination_time(
    hops: float, degree: float, message_bytes: float, bytes_per_second: float, latency: float
) -> float:
    """Seconds until everybody has a message: `h (D S / R + tau)`.

    A hop takes as long as D copies take through an uplink of R bytes per second, and the latency (seconds) of a link.
    Source: vac.dev, "GossipSub improvements", 2025. The last copy of a hop is counted, so it errs on the late side
    for small messages: most are sent on before.
    """
    if min(hops, degree, message_bytes, latency) < 0 or bytes_per_second <= 0:
        raise ValueError("times, sizes and degrees are not negative, and an uplink carries something")
    return hops * (degree * message_bytes / bytes_per_second + latency)


# --- lookups and storage


def lookup_succeeds(liars: float, hops: int, paths: int) -> float:
    """Chance that one of `paths` disjoint paths meets no liar: `1 - (1 - (1 - f)^h)^d`.

    Where one liar ends a path. `kademlia.lookup` asks several on each path and passes over whose word was not good, so
    that a path outlives liars; it finds more.
    """
    _chance("liars", liars)
    _count("hops", hops)
    _count("paths", paths, 1)
    return float(1 - (1 - (1 - liars) ** hops) ** paths)


def record_survives(interval: float, lifetime: float, copies: int) -> float:
    """Chance that one of `copies` holders is there after an interval: `1 - (1 - e^(-T / L))^k`.

    Holders leave after exponential times of mean `lifetime`, and nobody stores the record again meanwhile. With L = 4 h
    and 20 copies, 36 % of all records are lost within 12 h and 8e-14 within one: so they are stored again each hour
    (`kademlia.parameters.KademliaParameters.repeat_held`).
    """
    return 1.0 - record_lost(interval, lifetime, copies)


def record_lost(interval: float, lifetime: float, copies: int) -> float:
    """Chance that none of `copies` holders is there after an interval: 1 - `record_survives`, exact where tiny."""
    _count("copies", copies, 1)
    if interval < 0 or lifetime <= 0:
        raise ValueError("an interval is not negative, and a lifetime positive")
    return float((-math.expm1(-interval / lifetime)) ** copies)


def shards_lost(needed: int, shards: int, loss: Fraction) -> Fraction:
    """Chance that fewer than k of n shards are left: sum over i < k of `C(n, i) (1 - loss)^i loss^(n - i)`.

    Each holder has one shard, and is lost with chance `loss`. The same number that `koii-p2p` shows for a durability
    level (`data.durability`).
    """
    return loss_probability(Code(needed, shards), loss)


def _count(name: str, value: int, least: int = 0) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}, less than {least}")


def _part(name: str, value: int, whole: str, most: int) -> None:
    if not 0 <= value <= most:
        raise ValueError(f"{name} is {value}, not from 0 to {whole} ({most})")


def _chance(name: str, value: Fraction | float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, not a chance from 0 to 1")
