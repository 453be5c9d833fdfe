"""`koii-p2p task new`: start a task from a template."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from koii_p2p.cli.main import Invocation
from koii_p2p.cli.output import pairs, print_result
from koii_p2p.cli.settings import load_settings
from koii_p2p.tasks.new_task import make_task, template_names


def new(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The task's name, and that of its folder, made here.")
    ],
    template: Annotated[
        str, typer.Option("--template", help=f"What to begin with: {', '.join(template_names())}.")
    ] = "hello-world",
) -> None:
    """Make a folder with a task that works: task.py, config-task.yml and README.md. It asks no node and no K2."""
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    made = [str(path) for path in make_task(name, template, Path.cwd())]
    following = f"koii-p2p task test {name}"
    data = {"name": name, "template": template, "made": made, "next": following}
    print_result(data, pairs({**data, "made": "\n".join(made)}), settings.output)
