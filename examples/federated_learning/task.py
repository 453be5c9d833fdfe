"""Federated learning: nodes train one model together, each on its part of the data, and audit each other's training.

In each round a node takes the model, trains it on a shard, and shares by how much every weight moved. Auditors train
again and compare. The updates that were approved are averaged into the model that is trained three rounds later: then
the round is settled, and every node knows the same ones (`ctx.results`). McMahan et al., "Communication-Efficient
Learning of Deep Networks from Decentralized Data", 2017: FederatedAveraging.

Models and updates are whole numbers of millionths. So sums of them are the same on every machine; what a machine rounds
differently is in the training only, and for that there is a tolerance.
"""

from __future__ import annotations

import re
from hashlib import sha256

import numpy as np

from koii_p2p.tasks import audits
from koii_p2p.tasks.audits import AuditReason
from koii_p2p.tasks.sdk import Audited, Context, Task

Weights = np.ndarray
"""One for each feature, in millionths (int64)."""

FEATURES = 12
SHARDS = 8
SAMPLES = 250
"""Of each shard."""
STEPS = 20
RATE = 0.5
UNIT = 1_000_000
TOLERANCE = 100
"""Millionths by which a weight may differ from what an auditor comes to."""
SETTLED = 3
"""Rounds until the list of a round has passed its audit."""
FORM = re.compile("(?P<loss>[0-9]\\.[0-9]{6}) (?P<reference>[a-z2-7]{59})")


def shard(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples and labels (0 or 1) of one shard, the same on every machine. Put your own data here."""
    counter = range(number * SAMPLES, (number + 1) * SAMPLES)
    hashes = b"".join(sha256(b"sample %d" % one).digest()[: 2 * FEATURES] for one in counter)
    samples = np.frombuffer(hashes, ">u2").reshape(SAMPLES, FEATURES) / 2**15 - 1
    hidden = np.linspace(-2, 2, FEATURES)
    return samples, (samples @ hidden > 0).astype(np.float64)


def loss_of(model: Weights) -> float:
    """Mean cross-entropy over all of the data."""
    total = 0.0
    for number in range(SHARDS):
        samples, labels = shard(number)
        sign = 2 * labels - 1
        total += np.logaddexp(0, -sign * (samples @ (model / UNIT))).mean()
    return float(total / SHARDS)


def trained(model: Weights, number: int) -> Weights:
    """By how much some steps of gradient descent on a shard move a model's weights."""
    samples, labels = shard(number)
    weights = model / UNIT
    for _ in range(STEPS):
        said = 1 / (1 + np.exp(-samples @ weights))
        weights = weights - RATE * samples.T @ (said - labels) / SAMPLES
    return np.rint(weights * UNIT).astype(np.int64) - model


def shard_of(submitter: str, round: int) -> int:
    """The shard that a node trains on in a round: all of them in turn, so that no node has to hold all."""
    return sha256(f"{submitter} {round}".encode()).digest()[0] % SHARDS


def packed(model: Weights, update: Weights) -> bytes:
    return np.stack([model, update]).astype("<i8").tobytes()


def unpacked(blob: bytes) -> tuple[Weights, Weights] | None:
    """A model and what its training moved; None for bytes that are something else."""
    if len(blob) != 2 * FEATURES * 8:
        return None
    model, update = np.frombuffer(blob, "<i8").astype(np.int64).reshape(2, FEATURES)
    return model, update


class FederatedLearning(Task):
    def __init__(self) -> None:
        self.models: dict[int, Weights] = {}

    async def model(self, ctx: Context, round: int) -> Weights:
        """The model that is trained in a round. Raises `LookupError` while the round it comes from is not settled."""
        if round not in self.models:
            self.models[round] = await self.averaged(ctx, round)
        return self.models[round]

    async def averaged(self, ctx: Context, round: int) -> Weights:
        if round < SETTLED:
            return np.zeros(FEATURES, np.int64)
        results = await ctx.results(round - SETTLED)
        if results is None:
            raise LookupError(f"round {round - SETTLED} is not settled yet")
        approved = [results[key].value for key in sorted(results) if results[key].approved]
        if not approved:
            return await self.model(ctx, round - SETTLED)
        shared = [unpacked(await ctx.data.get(FORM.fullmatch(value)["reference"])) for value in approved]
        models, updates = zip(*shared, strict=True)  # auditors have seen that all have the same model
        return models[0] + sum(updates) // len(updates)

    async def task(self, ctx: Context, round: int) -> None:
        model = await self.model(ctx, round)
        update = self.update(model, shard_of(ctx.submitter, round))
        reference = await ctx.data.put(packed(model, update))
        loss = loss_of(model)
        ctx.logger.info("round %d: the model's loss is %.6f", round, loss)
        await ctx.store.set(f"shared {round}", f"{loss:.6f} {reference}")

    def update(self, model: Weights, number: int) -> Weights:
        return trained(model, number)

    async def submission(self, ctx: Context, round: int) -> str | None:
        return await ctx.store.get(f"shared {round}")

    async def audit(self, ctx: Context, submission: str | bytes, round: int, submitter: str) -> Audited:
        form = FORM.fullmatch(submission) if isinstance(submission, str) else None
        if form is None:
            return audits.invalid(AuditReason.MALFORMED, "a loss and a reference are asked for")
        shared = unpacked(await ctx.data.get(form["reference"]))  # raises if it cannot be had: UNAVAILABLE
        if shared is None:
            return audits.invalid(AuditReason.MALFORMED, "the blob holds no model and update")
        model, update = shared
        if not np.array_equal(model, await self.model(ctx, round)):
            return audits.invalid(AuditReason.DIFFERENT, "it has trained another model")
        if not (right := audits.within(form["loss"], loss_of(model), tolerance=TOLERANCE / UNIT)):
            return right
        expected = trained(model, shard_of(submitter, round))
        worst = int(np.abs(update - expected).argmax())
        return audits.within(int(update[worst]), int(expected[worst]), tolerance=TOLERANCE)
