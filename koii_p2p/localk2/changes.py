"""What accounts were before the newest slots changed them: for reads at `confirmed` and `finalized`.

The bank holds one state, the newest. A reader that asked for `finalized` must not see what the last 32 slots
did, so for each of those slots the accounts it changed are kept as they were before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from solders.account import Account
from solders.pubkey import Pubkey


class RecentChanges:
    """For each of the newest slots, the first-seen state of every account it may have changed."""

    def __init__(self) -> None:
        self._before: OrderedDict[int, dict[Pubkey, Account | None]] = OrderedDict()

    def record(self, slot: int, before: Mapping[Pubkey, Account | None]) -> None:
        """Note what accounts were before a transaction of `slot`; an earlier note of the same slot stays."""
        noted = self._before.setdefault(slot, {})
        for key, account in before.items():
            noted.setdefault(key, account)

    def keys_of(self, slot: int) -> Iterable[Pubkey]:
        """Accounts that a slot may have changed."""
        return self._before.get(slot, {}).keys()

    def keys_after(self, slot: int) -> set[Pubkey]:
        """Accounts that may have changed after the end of `slot`."""
        return {key for at, noted in self._before.items() if at > slot for key in noted}

    def at_end_of(self, slot: int, key: Pubkey, newest: Account | None) -> Account | None:
        """An account as it was at the end of `slot`, given what it is now."""
        for at, noted in self._before.items():
            if at > slot and key in noted:
                return noted[key]
        return newest

    def forget_through(self, slot: int) -> None:
        """Drop notes of slots up to `slot`: nobody can ask for a state before them any more."""
        while self._before and next(iter(self._before)) <= slot:
            self._before.popitem(last=False)

    def drop_after(self, slot: int) -> None:
        """Drop notes of slots after `slot`: what they did was undone."""
        for later in [at for at in self._before if at > slot]:
            del self._before[later]

    def size(self) -> int:
        """How many account states are kept."""
        return sum(len(noted) for noted in self._before.values())
