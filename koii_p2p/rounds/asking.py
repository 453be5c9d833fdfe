"""What a round engine has asked for, so that it asks again neither at every slot nor never."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from koii_p2p.rounds.events import Action

ASK_AGAIN_SLOTS = 10
"""An action that was not answered by its event is asked for again after this many slots, at the latest."""


class Asking:
    """Keys of what was asked for, and when. `slot` is now.

    An audit has up to six stages. Whoever asks for the beacon too early, because its chain lags, must be able to ask
    twice more within the first of them.
    """

    def __init__(self, audit_window: int) -> None:
        self.slot = -1
        self._again = max(1, min(ASK_AGAIN_SLOTS, audit_window // 18))
        self._asked: dict[Hashable, int] = {}

    def ask(self, action: Action, key: Hashable = None) -> Iterator[Action]:
        """Yield the action, unless it (or what `key` names) was asked for in the last few slots."""
        if self.due(action if key is None else key):
            yield action

    def due(self, key: Hashable) -> bool:
        """Whether something may be asked for (again) now; it counts as asked for from then on."""
        asked = self._asked.get(key)
        if asked is not None and self.slot - asked < self._again:
            return False
        self._asked[key] = self.slot
        return True

    def first_time(self, key: Hashable) -> bool:
        """Whether something is asked for the first time (in as many slots as are remembered)."""
        if key in self._asked:
            return False
        self._asked[key] = self.slot
        return True

    def since(self, key: Hashable) -> int:
        """Slots since this was asked for the first time, which is now if it never was (as far as is remembered)."""
        return self.slot - self._asked.setdefault(key, self.slot)

    def forget_before(self, slot: int) -> None:
        """Forget what was asked for longest ago."""
        self._asked = {key: asked for key, asked in self._asked.items() if asked >= slot}
