"""Transactions to be refused: what an attack is, the table of all, and what several of them are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.refusals import ProgramError

from .virtual_chain import KOII, Result, TaskChain, address, default_terms


@dataclass(frozen=True)
class Attack:
    """One instruction, and who signs besides the payer."""

    instruction: Instruction
    signers: Sequence[Keypair] = ()

    def send(self, chain: TaskChain) -> Result:
        """Run it. `VirtualChain.send` checks that a refusal changes nothing but the payer's fee."""
        return chain.send(self.instruction, signers=self.signers)


Case = Callable[[TaskChain], Attack]


class Cases(dict[str, tuple[ProgramError, Case]]):
    """The attacks of one module, by name: the error each must get, and how to make it on a fresh chain."""

    def refused(self, error: ProgramError) -> Callable[[Case], Case]:
        """Add the decorated function, which makes an attack on the chain it is given."""

        def add(case: Case) -> Case:
            assert case.__name__ not in self
            self[case.__name__] = (error, case)
            return case

        return add

    def parametrize(self) -> pytest.MarkDecorator:
        """Run a test once for each: `error`, `case`."""
        return pytest.mark.parametrize(("error", "case"), list(self.values()), ids=list(self))


def replaced(attack: Attack, accounts: Sequence[AccountMeta]) -> Attack:
    old = attack.instruction
    signers = {bytes(meta.pubkey) for meta in accounts if meta.is_signer}
    return Attack(
        Instruction(old.program_id, bytes(old.data), list(accounts)),
        [one for one in attack.signers if address(one) in signers],
    )


def other_address(seeds: tuple[bytes, ...]) -> bytes:
    program = Pubkey(ix.PROGRAM_ID)
    _, bump = Pubkey.find_program_address(list(seeds), program)
    for lower in range(bump - 1, -1, -1):
        try:
            return bytes(Pubkey.create_program_address([*seeds, bytes([lower])], program))
        except Exception:  # noqa: BLE001 - PubkeyError, which solders does not export
            continue
    raise AssertionError("no second address for these seeds")


def other_task(chain: TaskChain) -> bytes:
    terms: TaskTerms = default_terms(address(chain.payer), 8)
    chain.ok(ix.create_task(terms, 8))
    return terms.task


def poor_list(chain: TaskChain, reward: int) -> Attack:
    poor = TaskTerms(**{name: getattr(chain.terms, name) for name in TaskTerms.__dataclass_fields__})
    task = ix.task_address(address(chain.payer), 8)
    chain.ok(ix.create_task(poor, 8))
    chain.ok(ix.fund(task, address(chain.payer), 2 * KOII))
    chain.task, chain.vault = task, ix.vault_address(task)
    for index in range(3):
        chain.add_stake(index, 5 * KOII)
    chain.commit(0)
    chain.at(chain.clock.distribution(0).opens)
    return Attack(chain.list_instruction(0, chain.earn([reward, 0, 0])), [chain.stakers[0]])
