"""The stand-in's other dialect: KPL's one-byte flags and token accounts. Only the numbers move, never a token."""

from __future__ import annotations

from dataclasses import replace

import pytest
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, TransferParams, create_account, transfer

from koii_p2p.settlement.koii_task.instructions import KoiiInstructions, NewTask, TokenAccounts, pieces_of
from koii_p2p.settlement.koii_task.readings import KPL, NATIVE, StateForm
from koii_p2p.settlement.koii_task.settlement import encode_list
from koii_p2p.settlement.koii_task.state import KoiiTaskState, PayoutRecord, read_state
from scripts.koii_standin.state import ELF, account_bytes, decode, local_vars, render

from ..virtual_chain import KOII, Result, VirtualChain, address, keypair

TASK, POT = keypair("kpl task"), keypair("kpl pot")
STAKERS = [keypair(f"kpl staker {index}") for index in range(3)]
KEYS = [address(one) for one in STAKERS]
TOKENS = TokenAccounts(b"a" * 32, b"m" * 32, b"u" * 32, b"s" * 32)
ENCODE = KoiiInstructions(KPL, KPL.program)
E_LENGTH = 0x102


class KplWorld:
    def __init__(self) -> None:
        self.chain = VirtualChain(slot=1000)
        self.chain.svm.add_program(Pubkey(KPL.program), ELF.read_bytes())
        self.payer = address(self.chain.payer)
        new = NewTask("kpl", "", "", "", 100 * KOII, 10 * KOII, 100, 40, 30, KOII, "", local_vars(KPL), 3)
        create = ENCODE.create_task(self.payer, address(TASK), address(POT), new, TOKENS)
        self.ok(self.account(TASK, account_bytes(20)), signers=[TASK])
        self.ok(self.account(POT, 0), create, signers=[POT, TASK])
        for one in STAKERS:
            stake = ENCODE.stake(address(TASK), address(one), address(POT), 2 * KOII, "http://a", TOKENS)
            self.ok(self.account(one, 1000), stake, signers=[one])

    def account(self, key: Keypair, size: int) -> Instruction:
        params = CreateAccountParams(
            from_pubkey=self.chain.payer.pubkey(),
            to_pubkey=key.pubkey(),
            lamports=self.chain.rent(size + 1000),
            space=size,
            owner=Pubkey(KPL.program),
        )
        return create_account(params)

    def ok(self, *instructions: Instruction, signers: list[Keypair]) -> None:
        # A transfer of nothing behind them: the chain names the costs of lone instructions after our own program's.
        wallet = self.chain.payer.pubkey()
        nothing = transfer(TransferParams(from_pubkey=wallet, to_pubkey=wallet, lamports=0))
        result = self.chain.send(*instructions, nothing, signers=signers)
        assert result.err is None, result.err

    def send(self, instruction: Instruction, *signers: Keypair) -> Result:
        return self.chain.send(instruction, signers=signers)

    def state(self, form: StateForm = StateForm.BORSH) -> KoiiTaskState:
        readings = replace(KPL, state=form)
        return read_state(render(decode(self.chain.data(address(TASK))), readings), readings)


@pytest.mark.parametrize("form", [StateForm.BORSH, StateForm.BINCODE])
def test_a_round_of_the_kpl_dialect(form: StateForm) -> None:
    world, task = KplWorld(), address(TASK)
    world.chain.at(1100)
    for one in STAKERS:
        world.ok(ENCODE.submit_task(task, address(one), 0, b"work"), signers=[one])
    world.chain.at(1130)
    world.ok(ENCODE.audit_submission(task, KEYS[0], KEYS[2], 0, valid=False), signers=[STAKERS[0]])
    world.ok(ENCODE.audit_submission(task, KEYS[1], KEYS[2], 0, valid=True), signers=[STAKERS[1]])
    world.chain.at(1200)
    for place, piece in enumerate(pieces_of(encode_list({KEYS[0]: KOII, KEYS[2]: -KOII}), KPL.upload)):
        world.ok(ENCODE.upload_list(task, KEYS[0], 0, place, piece), signers=[STAKERS[0]])
    world.ok(ENCODE.submit_list(task, KEYS[0], KEYS[0], 0), signers=[STAKERS[0]])
    world.chain.at(1230)
    world.ok(ENCODE.audit_distribution(task, KEYS[1], KEYS[0], 0, valid=True), signers=[STAKERS[1]])
    world.chain.at(1270)
    world.ok(ENCODE.payout(task, KEYS[0], 0), signers=[])

    state = world.state(form)
    audit = state.submissions_audit_trigger[0][KEYS[2]]
    assert (audit.trigger_by, [(vote.voter, vote.is_valid) for vote in audit.votes]) == (
        KEYS[0],
        [(KEYS[1], True)],
    )
    assert state.distributions_audit_record == {0: PayoutRecord.SUCCESSFUL}
    assert state.available_balances == {KEYS[0]: KOII}
    assert state.stake_list == {KEYS[0]: 2 * KOII, KEYS[1]: 2 * KOII, KEYS[2]: KOII}
    assert state.ip_address_list[KEYS[0]] == "http://a"

    beneficiary = address(keypair("token account"))
    world.ok(ENCODE.claim_reward(task, KEYS[0], address(POT), beneficiary, TOKENS), signers=[STAKERS[0]])
    world.ok(ENCODE.fund_task(task, KEYS[1], address(POT), KOII, TOKENS), signers=[STAKERS[1]])
    world.ok(ENCODE.set_active(task, world.payer, active=False), signers=[])
    world.chain.at(1000 + 500)
    world.ok(ENCODE.withdraw(task, KEYS[1]), signers=[STAKERS[1]])
    after = world.state(form)
    assert after.available_balances == {KEYS[1]: 2 * KOII}
    assert (after.total_bounty_amount, after.is_active) == (state.total_bounty_amount + KOII, False)


def test_each_dialect_refuses_the_others_flags() -> None:
    world, task = KplWorld(), address(TASK)
    world.chain.at(1100)
    world.ok(ENCODE.submit_task(task, KEYS[2], 0, b"work"), signers=[STAKERS[2]])
    world.chain.at(1130)
    native = KoiiInstructions(NATIVE, KPL.program)
    result = world.send(native.audit_submission(task, KEYS[0], KEYS[2], 0, valid=False), STAKERS[0])
    assert result.err == {"InstructionError": [1, {"Custom": E_LENGTH}]}
