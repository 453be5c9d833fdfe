"""A cheater: trains as it should, and shares the opposite in the right form. The model would forget what it knows."""

from __future__ import annotations

from task import FederatedLearning, Weights, trained


class Poisoner(FederatedLearning):
    def update(self, model: Weights, number: int) -> Weights:
        return -trained(model, number)
