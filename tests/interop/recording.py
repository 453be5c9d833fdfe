"""Every transaction that tests run in solders' virtual machine, written down as data that another runtime can replay.

As a pytest plugin, with the name of a file in `KOII_P2P_CASES`, it records a whole run of tests:

    KOII_P2P_CASES=cases.json python -m pytest -p tests.interop.recording tests/settlement/test_vetoes.py
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest
from solders.account import Account
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.rent import Rent
from solders.transaction import Transaction

from koii_p2p.settlement import instructions as ix
from tests.settlement.virtual_chain import COMPUTE_BUDGET_UNITS, PROGRAM_SO, Result, VirtualChain

FILE_VARIABLE: Final = "KOII_P2P_CASES"
USUAL_RENT: Final = Rent.default()
LOADER: Final = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
CODE_HEADER: Final = 45
"""Bytes before the code in the account that holds it: kind, slot of the deployment, and authority."""


def state_id(account: Account | None) -> str | None:
    """SHA-256 over lamports (u64, little-endian), owner and data, in hexadecimal; None for no account."""
    if account is None:
        return None
    owned = account.lamports.to_bytes(8, "little") + bytes(account.owner) + bytes(account.data)
    return hashlib.sha256(owned).hexdigest()


@dataclass
class Recording:
    """Cases so far, each once; the states of accounts are kept apart, since most are in many cases."""

    cases: list[dict[str, Any]] = field(default_factory=list)
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    programs: dict[str, str] = field(default_factory=dict)
    transactions: int = 0
    _secrets: dict[Pubkey, str] = field(default_factory=dict)
    _known: set[bytes] = field(default_factory=set)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def signs(self, key: Keypair) -> None:
        """Keep the seed of a key of the tests: a transaction is signed anew for each chain's blockhash."""
        self._secrets[key.pubkey()] = key.secret().hex()

    def next_number(self) -> int:
        """A number for a transaction: no two in the recording are the same bytes, so that none is a resend."""
        return next(self._numbers)

    def add(
        self,
        chain: VirtualChain,
        transaction: Transaction,
        before: dict[Pubkey, Account | None],
        result: Result,
    ) -> None:
        """Keep one transaction with the accounts before and after, unless the same was there already."""
        self.transactions += 1
        message = transaction.message
        keys = [key for key in message.account_keys if not self._is_program(chain, key, before[key])]
        rent = chain.svm.get_rent()
        situation = {
            "slot": chain.slot,
            "rent": None if rent == USUAL_RENT else bytes(rent).hex(),
            "before": {str(key): self._state(before[key]) for key in keys},
        }
        ours = [
            [bytes(one.data).hex(), one.accounts.hex(), str(message.account_keys[one.program_id_index])]
            for one in message.instructions[1:]
        ]
        header = [message.header.num_required_signatures, *map(str, message.account_keys)]
        digest = hashlib.sha256(json.dumps([situation, ours, header], sort_keys=True).encode()).digest()
        if digest in self._known:
            return
        self._known.add(digest)
        after = {str(key): self._state(chain.svm.get_account(key)) for key in keys}
        signers = message.account_keys[: message.header.num_required_signatures]
        self.cases.append(
            {
                "name": os.environ.get("PYTEST_CURRENT_TEST", "").removesuffix(" (call)"),
                **situation,
                "message": base64.b64encode(bytes(message)).decode(),
                "signers": [self._secrets[key] for key in signers],
                "tags": [one.data[:1].hex() for one in message.instructions[1:]],
                "err": result.err,
                "units": result.compute_units + COMPUTE_BUDGET_UNITS,
                "after": after,
            }
        )

    def _is_program(self, chain: VirtualChain, key: Pubkey, account: Account | None) -> bool:
        """Whether it is a program, which a case does not carry. The code of one that a test added is kept."""
        if account is None or not account.executable:
            return False
        if account.owner == LOADER and key != Pubkey(ix.PROGRAM_ID):
            code = chain.svm.get_account(Pubkey(bytes(account.data)[4:36]))
            assert code is not None
            self.programs[str(key)] = base64.b64encode(bytes(code.data)[CODE_HEADER:]).decode()
        return True

    def _state(self, account: Account | None) -> str | None:
        name = state_id(account)
        if account is not None and name is not None and name not in self.states:
            self.states[name] = {
                "lamports": account.lamports,
                "owner": str(account.owner),
                "data": base64.b64encode(bytes(account.data)).decode(),
            }
        return name

    def dump(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "program": str(Pubkey(ix.PROGRAM_ID)),
            "sha256": hashlib.sha256(PROGRAM_SO.read_bytes()).hexdigest(),
            "transactions": self.transactions,
            "programs": self.programs,
            "states": self.states,
            "cases": self.cases,
        }


@contextmanager
def recording() -> Iterator[Recording]:
    """Record what any `VirtualChain` runs meanwhile."""
    kept = Recording()
    send, run = VirtualChain.send, VirtualChain.run

    def recorded_send(
        chain: VirtualChain,
        *instructions: Instruction,
        signers: Sequence[Keypair] = (),
        payer: Keypair | None = None,
    ) -> Result:
        chain.sent = kept.next_number()
        for key in (chain.payer, *signers, *((payer,) if payer else ())):
            kept.signs(key)
        return send(chain, *instructions, signers=signers, payer=payer)

    def recorded_run(chain: VirtualChain, transaction: Transaction) -> Result:
        before = {key: chain.svm.get_account(key) for key in transaction.message.account_keys}
        result = run(chain, transaction)
        kept.add(chain, transaction, before, result)
        return result

    with ExitStack() as stack:
        stack.enter_context(patch.object(VirtualChain, "send", recorded_send))
        stack.enter_context(patch.object(VirtualChain, "run", recorded_run))
        yield kept


_whole_run = ExitStack()
_kept: list[Recording] = []


def pytest_configure(config: pytest.Config) -> None:
    """Begin to record, if a file is named."""
    if FILE_VARIABLE in os.environ:
        _kept.append(_whole_run.enter_context(recording()))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Write the recording."""
    _whole_run.close()
    for kept in _kept:
        Path(os.environ[FILE_VARIABLE]).write_text(json.dumps(kept.dump()))
