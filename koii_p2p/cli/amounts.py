"""Amounts on the command line: written in KOII, kept in Roe."""

from __future__ import annotations

import typer

from koii_p2p.amounts import roe


def roe_given(text: str) -> int:
    """An option's amount in KOII, such as "1.9", as Roe. Raises typer's usage error."""
    try:
        return roe(text.strip())
    except ValueError as error:
        raise typer.BadParameter(f"{error}; write it like 1.9") from error
