"""`koii-p2p round`: one round as a running node knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import trio
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.output import koii, pairs, print_result, table
from koii_p2p.cli.running_node import only_task
from koii_p2p.cli.settings import settings_of
from koii_p2p.errors import CheckFailed
from koii_p2p.testnets.node_client import NodeClient

app = typer.Typer()


@app.callback()
def rounds() -> None:
    """Rounds: work, submissions, audit, commitment, distribution list, settlement."""


@app.command("show")
def show(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(min=0, metavar="ROUND", help="The number of the round.")],
    task: Annotated[
        str | None, typer.Option("--task", help="Which task, if the node works on several.")
    ] = None,
) -> None:
    """Show a round: who submitted what, who voted how, the outcome, the amounts and what K2 holds."""
    settings = settings_of(ctx)

    async def read() -> dict[str, Any]:
        async with NodeClient.of_home(settings.home) as client:
            chosen = task or only_task([str(one["task"]) for one in (await client.status())["tasks"]])
            found = await client.round(chosen, number)
        if found is None:
            raise CheckFailed(
                f"This node does not know round {number} of task {chosen}.",
                "It keeps the rounds of the last few periods, of the tasks it works on.",
                "See `koii-p2p status` for the rounds there are.",
            )
        return found

    found = trio.run(read)
    print_result(found, round_tables(found), settings.output)


def round_tables(found: Mapping[str, Any]) -> RenderableType:
    """A round for a person."""
    anchors = found["anchors"] or {}
    about = {
        "task": found["task"],
        "round": found["round"],
        "phase": found["phase"],
        "slots": ", ".join(
            f"{name} {opens}-{closes - 1}" for name, (opens, closes) in found["windows"].items()
        ),
        "settles at": found["settles_at"],
        "beacon": found["beacon"] or "not known before the submissions end",
        "commitment": _anchor(anchors, "commitment", "commitment"),
        "list": _anchor(anchors, "list_root", "list"),
        "list votes": f"{found['list_votes']['agree']} agree, {found['list_votes']['disagree']} disagree",
        "settled": "yes" if found["settled"] else "no",
    }
    if found["equivocations"]:
        about["equivocated"] = ", ".join(found["equivocations"])
    values = {item["author"]: item for item in found["submitted"]}
    amounts = found["amounts"] or {}
    rows = []
    for key in sorted({*found["stakes"], *values}):
        verdicts = [f"{v['verdicts'][key]}" for v in found["votes"] if key in v["verdicts"]]
        counted = ", ".join(f"{verdicts.count(name)} {name.lower()}" for name in sorted(set(verdicts)))
        item = values.get(key, {})
        rows.append(
            (
                key,
                koii(found["stakes"].get(key, 0)),
                item.get("value", "-"),
                counted or "-",
                (item.get("outcome") or "-").lower(),
                found["auditors"].get(key, "-").lower(),
                koii(amounts[key]) if key in amounts else "-",
            )
        )
    columns = ("staker", "stake", "submitted", "votes", "outcome", "as auditor", "amount")
    return Group(pairs(about), Text(), table(columns, rows))


def _anchor(anchors: Mapping[str, Any], digest: str, name: str) -> str:
    if not anchors.get(digest):
        return "not anchored"
    return f"{anchors[digest]} in slot {anchors[name + '_slot']} by {anchors[name + '_by']}"
