"""Accounts of Koii's task program as K2's own RPC methods need them: a `TaskReader` turns one into a TaskState.

A KOII task's account data is JSON text, a KPL task's a Borsh structure, and a stand-in for the program may
keep its own; whoever brings such accounts to a local K2 brings a reader for them.
"""

from __future__ import annotations

import json
from typing import Any, Final, Protocol

from solders.account import Account
from solders.pubkey import Pubkey

KOII_TASK_PROGRAM: Final = Pubkey.from_string("Koiitask22222222222222222222222222222222222")
KPL_TASK_PROGRAM: Final = Pubkey.from_string("KPLTRVs6jA7QTthuJH2cEmyCEskFbSV2xpZw46cganN")

TaskState = dict[str, Any]
"""A task's state under the names that Koii's namespace wrapper uses: `submissions`, `stake_list` and so on."""

MAPS: Final = (
    "submissions",
    "submissions_audit_trigger",
    "distribution_rewards_submission",
    "distributions_audit_trigger",
    "distributions_audit_record",
    "available_balances",
    "stake_list",
    "ip_address_list",
)
"""Fields that are maps: {round: {key: ...}} or {key: ...}."""


class TaskReader(Protocol):
    """Reads the accounts of one task program."""

    def read(self, address: Pubkey, account: Account) -> TaskState | None:
        """The task's state, or None if the account is not one of this reader's tasks.

        Raises:
            ValueError: it is, and is damaged.
        """
        ...


class JsonTaskReader:
    """Tasks whose data is JSON text, filled up with NUL bytes or spaces: KOII tasks on K2."""

    def read(self, address: Pubkey, account: Account) -> TaskState | None:
        """The task's state. Maps that the text leaves out are empty."""
        if account.owner != KOII_TASK_PROGRAM:
            return None
        text = bytes(account.data).partition(b"\0")[0].strip()
        if not text.startswith(b"{"):
            return None  # a staking account of the same program
        try:
            state = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the task {address} holds no JSON text") from error
        empty: TaskState = {name: {} for name in MAPS}
        for name in MAPS:
            if not isinstance(state.get(name, {}), dict):
                raise ValueError(f"{name} of the task {address} is not an object")
        return {**empty, **state}
