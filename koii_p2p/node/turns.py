"""Leaders' turns with a carrier that takes commitments later than the rules of rounds allow."""

from __future__ import annotations

from koii_p2p.rounds import events
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.events import Action


class LateTurns:
    """Keeps leaders apart where K2 takes no commitment before a round's distribution window.

    Leaders take their turns from the end of the audit on (PROTOCOL §7). If they only waited, all would anchor at once
    when the window opens; so each turn comes as many slots later as the window does.
    """

    def __init__(self, clock: RoundClock, *, late: bool) -> None:
        """`late`: whether it is so with this carrier; if not, nothing is ever early."""
        self._clock = clock
        self._late = late
        self._asked: dict[int, int] = {}

    def is_early(self, action: Action, slot: int) -> bool:
        """Whether an action is a commitment whose turn has not come; the engine asks for it again."""
        if not self._late or not isinstance(action, events.AnchorCommitment) or action.attempt:
            return False
        later = self._clock.distribution(action.round).opens - self._clock.commitment(action.round).opens
        return slot < self._asked.setdefault(action.round, slot) + later

    def forget_before(self, number: int) -> None:
        """Forget the turns in rounds before this one."""
        self._asked = {asked: slot for asked, slot in self._asked.items() if asked >= number}
