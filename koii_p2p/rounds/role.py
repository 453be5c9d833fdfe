"""What one node takes upon itself in a task's rounds: its operator's choice, within the task's rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOST_PATROLS: Final = 100
"""Submissions per round that one node may look at beyond those it is due for."""


@dataclass(frozen=True, slots=True)
class Role:
    """`submits`: hands in work; a witness only audits. `patrols`: submissions per round that it looks at beyond those
    it is due for, to challenge what is bad. `canaries`: hands in known-bad work when its turn comes, where the task's
    rules have canaries.
    """

    submits: bool = True
    patrols: int = 0
    canaries: bool = False
