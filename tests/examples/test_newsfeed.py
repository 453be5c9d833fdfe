from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from koii_p2p.cli.main import run
from tests.examples.playing import EXAMPLES, FEW, rehearsed, settled_on_a_testnet

EXAMPLE = "newsfeed"

REWRITER = """
from task import NOTHING, Newsfeed, hash_of, key_of, posts


class Rewriter(Newsfeed):
    '''Writes its first post anew in round 1, as if it had always said so.'''

    async def task(self, ctx, round):
        await super().task(ctx, round)
        if round == 1:
            said = {"number": 1, "round": 0, "slot": await ctx.get_slot(), "text": "I knew it", "after": NOTHING}
            signed = await ctx.sign(said)
            await posts(ctx).put({"_id": key_of(ctx.submitter, 1), **said, "signed": signed})
"""
FORGER = """
from task import Newsfeed, posts


class Forger(Newsfeed):
    '''Changes the text of what it has signed.'''

    async def submission(self, ctx, round):
        said = await super().submission(ctx, round)
        await posts(ctx).update({"round": round, "_id": {"$gt": ctx.submitter, "$lt": ctx.submitter + "0"}},
                                {"$set": {"text": "something else"}})
        return said
"""


def test_who_passes_off_others_words_is_caught(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rehearsed(EXAMPLE, tmp_path, capsys, monkeypatch, "--rounds", "2")
    assert [one["outcomes"]["wrong-1"] for one in found["rounds"]] == ["REJECTED", "REJECTED"]
    said = [call["answer"] for call in found["calls"] if call["about"] == "of wrong-1"]
    assert said
    assert all("not signed by whom it is said to be from" in answer for answer in said)
    numbers = [call["answer"][1:2] for call in found["calls"] if call["function"] == "submission"]
    assert sorted(numbers) == ["1"] * 4 + ["2"] * 4, "posts are numbered"


@pytest.mark.parametrize(
    ("cheater", "outcomes", "why"),
    [
        (REWRITER, ["UNAVAILABLE", "REJECTED"], "the post before it was written anew"),
        (FORGER, ["REJECTED", "REJECTED"], "different from what was computed again: signed was"),
    ],
    ids=["rewriter", "forger"],
)
def test_who_changes_what_was_said_is_caught(
    cheater: str, outcomes: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(EXAMPLES / EXAMPLE / "task.py", tmp_path / "task.py")
    (tmp_path / "cheater.py").write_text(cheater)
    words = [
        "--cheater",
        str(tmp_path / "cheater.py"),
        "--rounds",
        "2",
        *FEW,
        "--home",
        str(tmp_path / "home"),
    ]
    run(["task", "test", str(tmp_path), *words, "--output", "json"])
    found = json.loads(capsys.readouterr().out)
    assert [one["outcomes"]["wrong-1"] for one in found["rounds"]] == outcomes
    last = [call for call in found["calls"] if call["about"] == "of wrong-1" and call["round"] == 1]
    assert last
    assert all(why in call["answer"] for call in last)
    honest = {one["outcomes"][f"honest-{number}"] for one in found["rounds"] for number in (1, 2, 3)}
    assert honest == {"APPROVED"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_on_a_testnet_whose_nodes_share_the_posts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settled_on_a_testnet(EXAMPLE, tmp_path, monkeypatch)
    # Rounds before all nodes were up pay too; the check has held each sum against the rule.
    assert all(node["paid"] > 0 for node in found["nodes"][:4])
