from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from koii_p2p.rounds.tally import Outcome
from koii_p2p.tasks.facts import Result
from tests.e2e.test_documents import shown_commands
from tests.examples.playing import EXAMPLES, module_of, rehearsed

np = pytest.importorskip("numpy", reason="the extra `lab` brings NumPy, which this example needs")

EXAMPLE = "federated_learning"


def test_training_lowers_the_loss_on_data_that_it_has_not_seen() -> None:
    module = module_of(EXAMPLE)
    model = np.zeros(module.FEATURES, np.int64)
    assert module.loss_of(model) == pytest.approx(np.log(2))
    moved = [module.trained(model, number) for number in range(module.SHARDS)]
    assert all(module.loss_of(model + one) < 0.5 for one in moved)
    assert all(not np.array_equal(moved[0], other) for other in moved[1:]), "each shard has data of its own"
    assert module.unpacked(module.packed(model, moved[0]))[1].tolist() == moved[0].tolist()
    assert module.unpacked(b"short") is None


async def test_the_next_model_is_the_mean_of_what_was_approved_and_of_nothing_else() -> None:
    module = module_of(EXAMPLE)
    model = np.zeros(module.FEATURES, np.int64)
    moved = {key: np.full(module.FEATURES, step) for key, step in (("a", 30), ("b", 10), ("poison", -9000))}
    references = {key: "b" + str(2 + number) * 58 for number, key in enumerate(moved)}
    blobs = {references[key]: module.packed(model, update) for key, update in moved.items()}

    async def results(round: int) -> dict[str, Result] | None:
        outcomes = {key: Outcome.REJECTED if key == "poison" else Outcome.APPROVED for key in moved}
        return {
            0: {key: Result(key, f"0.693147 {references[key]}", outcomes[key]) for key in moved},
            3: {"poison": Result("poison", "0.1 x", Outcome.REJECTED)},
        }.get(round)

    async def get(reference: str) -> bytes:
        return blobs[reference]

    ctx = SimpleNamespace(results=results, data=SimpleNamespace(get=get))
    task = module.FederatedLearning()
    assert (await task.model(ctx, 2)).tolist() == [0] * module.FEATURES
    assert (await task.model(ctx, 3)).tolist() == [20] * module.FEATURES
    assert (await task.model(ctx, 6)).tolist() == [20] * module.FEATURES, "nothing was approved in round 3"
    with pytest.raises(LookupError, match="round 4 is not settled"):
        await task.model(ctx, 7)


def test_the_loss_falls_from_round_to_round_although_somebody_poisons_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rehearsed(EXAMPLE, tmp_path, capsys, monkeypatch)
    losses: dict[int, set[float]] = {}
    for call in found["calls"]:
        if call["function"] == "submission" and call["copy"].startswith("honest"):
            losses.setdefault(call["round"], set()).add(float(call["answer"].strip("'").split()[0]))
    assert set(losses) == set(range(10))
    assert all(len(said) == 1 for said in losses.values()), "every node trains the same model"
    by_round = [losses[number].pop() for number in range(10)]
    assert by_round[:3] == [0.693147] * 3
    assert all(after < before - 0.02 for before, after in zip(by_round, by_round[3:], strict=False)), by_round
    assert by_round[-1] < 0.3
    assert {one["outcomes"]["wrong-1"] for one in found["rounds"][:2]} == {"REJECTED"}
    assert found["rounds"][0]["amounts"]["wrong-1"] == -1_330_000_000
    said = [call["answer"] for call in found["calls"] if call["about"] == "of wrong-1"]
    assert said
    assert all("further from the expected number than is tolerated" in answer for answer in said)


def test_the_readme_says_how_to_get_numpy() -> None:
    first, *_ = shown_commands([EXAMPLES / EXAMPLE / "README.md"])
    assert first == "pip install -e '.[lab]'"
