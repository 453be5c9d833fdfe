"""The carrier against the stand-in: real transactions, under both readings of whatever Koii leaves open.

The stand-in is not Koii's program. What passes here shows that the carrier is consistent with one reading or the
other of Koii's documents, and nothing about the real K2.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import base58
import pytest

from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.merkle import Proof
from koii_p2p.rounds.roster import roster_at
from koii_p2p.settlement.interface import Settlement
from koii_p2p.settlement.koii_task.instructions import KoiiInstructions
from koii_p2p.settlement.koii_task.readings import (
    KPL,
    NATIVE,
    DataAccount,
    Readings,
    Resubmission,
    StateForm,
    UploadForm,
)
from koii_p2p.settlement.koii_task.settlement import (
    KoiiTaskSettings,
    KoiiTaskSettlement,
    ListNotAnchorable,
    encode_list,
)
from koii_p2p.settlement.koii_task.state import PayoutRecord
from koii_p2p.settlement.refusals import (
    AlreadyAnchored,
    AlreadyVetoed,
    DamagedAccount,
    NotCarried,
    ProgramError,
    ProgramRefused,
    UnknownTask,
)
from koii_p2p.settlement.rpc import TransactionFailed
from scripts.build_program import build_standin, compiler_missing
from scripts.koii_standin.state import ELF

from ..virtual_chain import KOII, address, keypair
from .standin_world import BOUNTY, StandinWorld, terms

REPLACES = replace(NATIVE, resubmission=Resubmission.REPLACES)
E_WINDOW, E_NOT_STAKED, E_TWICE, E_NO_CANDIDATE, E_LOCKED, E_LENGTH = 0x107, 0x108, 0x109, 0x10A, 0x10D, 0x102


@pytest.fixture
async def world() -> StandinWorld:
    return await StandinWorld().start()


def code(error: pytest.ExceptionInfo[TransactionFailed]) -> int | None:
    return error.value.custom_code


def test_the_committed_stand_in_is_what_its_source_gives() -> None:
    missing = compiler_missing()
    if missing is not None:
        print(f"not rebuilt: {missing}")
        pytest.skip(missing)
    assert ELF.read_bytes() == build_standin(), "run scripts/build_program.py"


def test_it_is_a_settlement(request: pytest.FixtureRequest) -> None:
    world = StandinWorld()
    settlement: Settlement = world.creator
    assert isinstance(settlement, KoiiTaskSettlement)


async def test_a_task_as_it_was_created(world: StandinWorld) -> None:
    state = await world.creator.task_state(world.task)
    assert (state.terms.round_time, state.terms.submission_window, state.terms.audit_window) == (100, 30, 40)
    assert (state.terms.name, state.terms.program, state.terms.starting_slot) == ("koii", "cid", 1000)
    assert (state.terms.bounty_per_round, state.vault, state.total_stake) == (3 * KOII, BOUNTY, 12 * KOII)
    assert state.terms.allowed_failed_distributions == 0, "K2 has no slots for a second attempt"
    assert roster_at(await world.creator.stakes(world.task), 0, state.terms).total_stake == 12 * KOII
    assert len(await world.creator.history(world.task)) == 4


async def _anchor(world: StandinWorld, round: int, committer: int = 0, lister: int = 1) -> None:
    world.at(world.clock.distribution(round).opens)
    await world.nodes[committer].anchor_commitment(world.task, round, b"c" * 32)
    await world.nodes[lister].anchor_list(world.task, round, b"l" * 32, KOII, 0)


FORMS = [
    NATIVE,
    replace(NATIVE, state=StateForm.BORSH),
    replace(NATIVE, state=StateForm.BINCODE, fixed_text=True),
]


@pytest.mark.parametrize("readings", FORMS, ids=["json", "borsh", "bincode"])
async def test_a_round_in_every_form_of_the_state(readings: Readings) -> None:
    world = await StandinWorld(readings).start()
    await _anchor(world, 0)
    held = (await world.creator.task_state(world.task)).rounds[0]
    assert (held.commitment, held.list_root, held.reward_total) == (b"c" * 32, b"l" * 32, KOII)
    assert (held.commitment_by, held.list_by) == (world.nodes[0].staker, world.nodes[1].staker)
    with pytest.raises(AlreadyAnchored):
        await world.nodes[2].anchor_commitment(world.task, 0, b"d" * 32)
    with pytest.raises(AlreadyAnchored):
        await world.nodes[2].anchor_list(world.task, 0, b"l" * 32, KOII, 0)


async def test_the_wrong_form_is_named() -> None:
    world = await StandinWorld().start()
    wrong = replace(world.settings, read_state=KoiiTaskSettings(NATIVE).read_state)
    with pytest.raises(DamagedAccount, match="Read as json"):
        await KoiiTaskSettlement(world.rpc, wrong, world.chain.payer).task_state(world.task)


async def test_a_second_submission_refused(world: StandinWorld) -> None:
    world.at(world.clock.distribution(0).opens)
    await world.nodes[0].anchor_commitment(world.task, 0, b"c" * 32)
    with pytest.raises(ListNotAnchorable):
        await world.nodes[0].anchor_list(world.task, 0, b"l" * 32, KOII, 0)
    await world.nodes[1].anchor_list(world.task, 0, b"l" * 32, KOII, 0)


async def test_a_second_submission_replaces() -> None:
    world = await StandinWorld(REPLACES).start()
    await _anchor(world, 0, committer=0, lister=0)
    held = (await world.creator.task_state(world.task)).rounds[0]
    assert (held.commitment_by, held.list_by, held.commitment) == (world.nodes[0].staker,) * 2 + (b"c" * 32,)


async def test_a_client_with_the_other_reading_hears_it_from_the_chain() -> None:
    world = await StandinWorld(NATIVE, client=REPLACES).start()
    world.at(world.clock.distribution(0).opens)
    await world.nodes[0].anchor_commitment(world.task, 0, b"c" * 32)
    with pytest.raises(TransactionFailed) as caught:
        await world.nodes[0].anchor_list(world.task, 0, b"l" * 32, KOII, 0)
    assert code(caught) == E_TWICE


async def test_windows(world: StandinWorld) -> None:
    node, window = world.nodes[0], world.clock.distribution(0)
    early, late = ProgramError.COMMITMENT_EARLY, ProgramError.COMMITMENT_LATE
    for slot, error in ((window.opens - 1, early), (window.closes, late)):
        world.at(slot)
        with pytest.raises(ProgramRefused) as caught:
            await node.anchor_commitment(world.task, 0, b"c" * 32)
        assert caught.value.error is error
    world.at(window.opens - 1)
    submit = KoiiInstructions(NATIVE, NATIVE.program).submit_task(world.task, node.staker or b"", 1, b"value")
    result = world.chain.send(submit, signers=[keypair("koii staker 0")])
    assert result.err == {"InstructionError": [1, {"Custom": E_WINDOW}]}, (
        "the stand-in agrees about the windows"
    )


async def test_only_stakers_submit(world: StandinWorld) -> None:
    world.at(world.clock.distribution(0).opens)
    with pytest.raises(TransactionFailed) as caught:
        await world.node(9).anchor_commitment(world.task, 0, b"c" * 32)
    assert code(caught) == E_NOT_STAKED


@pytest.mark.parametrize("counts", [True, False], ids=["a raise is a vote", "a raise is no vote"])
async def test_vetoes_are_audits_of_the_submission(counts: bool) -> None:
    world = await StandinWorld(replace(NATIVE, raise_is_vote=counts)).start()
    await _anchor(world, 0)
    window = world.clock.distribution_audit(0)
    with pytest.raises(ProgramRefused):
        await world.nodes[0].veto(world.task, 0, 0)
    world.at(window.opens)
    await world.nodes[0].veto(world.task, 0, 0)
    with pytest.raises(AlreadyVetoed):
        await world.nodes[0].veto(world.task, 0, 0)
    held = (await world.creator.task_state(world.task)).rounds[0]
    assert (held.veto_stake, held.rejected) == (5 * KOII if counts else 0, False)
    await world.nodes[2].veto(world.task, 0, 0)
    held = (await world.creator.task_state(world.task)).rounds[0]
    assert (held.veto_stake, held.rejected) == ((8 * KOII, True) if counts else (3 * KOII, False))
    state = await world.creator.task_state(world.task)
    assert (state.last_list is None) == counts
    if counts:
        with pytest.raises(AlreadyVetoed):
            await world.nodes[1].veto(world.task, 0, 0)


async def test_what_others_submit_is_no_anchor(world: StandinWorld) -> None:
    world.at(world.clock.distribution(0).opens)
    encode = KoiiInstructions(NATIVE, NATIVE.program)
    for index, text in enumerate((b"QmCid", b"koii-p2p/1|7|" + b"1" * 32)):
        staker = keypair(f"koii staker {index}")
        world.chain.ok(encode.submit_task(world.task, address(staker), 1, text), signers=[staker])
    assert (await world.creator.task_state(world.task)).rounds == {}
    await world.nodes[2].anchor_commitment(world.task, 0, b"c" * 32)
    assert (await world.creator.task_state(world.task)).rounds[0].commitment == b"c" * 32


async def test_of_two_commitments_the_first_slot_counts_and_then_the_key(world: StandinWorld) -> None:
    world.at(world.clock.distribution(0).opens)
    encode = KoiiInstructions(NATIVE, NATIVE.program)
    for index in (0, 1):
        staker, digest = keypair(f"koii staker {index}"), bytes([index]) * 32

        text = b"koii-p2p/1|0|" + base58.b58encode(digest)
        world.chain.ok(encode.submit_task(world.task, address(staker), 1, text), signers=[staker])
    held = (await world.creator.task_state(world.task)).rounds[0]
    assert held.commitment_by == min(address(keypair(f"koii staker {index}")) for index in (0, 1))


async def test_the_loser_of_a_race_is_told(world: StandinWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commitments in one slot: who has the larger key hears that somebody else's counts."""
    smaller, larger = sorted(range(3), key=lambda index: world.nodes[index].staker or b"")[:2]
    world.at(world.clock.distribution(0).opens)
    send = world.rpc.send_and_confirm
    raced: list[int] = []

    async def after_another(wire: bytes, **options: object) -> object:
        if not raced:
            raced.append(smaller)
            await world.nodes[smaller].anchor_commitment(world.task, 0, b"s" * 32)
        return await send(wire, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(world.rpc, "send_and_confirm", after_another)
    with pytest.raises(AlreadyAnchored):
        await world.nodes[larger].anchor_commitment(world.task, 0, b"c" * 32)
    held = (await world.creator.task_state(world.task)).rounds[0]
    assert (held.commitment, held.commitment_by) == (b"s" * 32, world.nodes[smaller].staker)


# -- Koii's own way of paying

UPLOADS = [
    NATIVE,
    replace(NATIVE, upload=UploadForm.RAW_512),
    replace(NATIVE, data_account=DataAccount.SEPARATE),
    replace(NATIVE, data_account=DataAccount.SEPARATE, upload=UploadForm.RAW_512, upload_writes_task=False),
    replace(NATIVE, audit_writes_candidate=False, stake_names_address=False),
]


@pytest.mark.parametrize(
    "readings", UPLOADS, ids=["numbered", "raw", "separate", "separate, raw", "no address"]
)
async def test_a_list_is_uploaded_paid_out_and_claimed(readings: Readings) -> None:
    world = await StandinWorld(readings).start((5, 4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2))
    keys = [node.staker or b"" for node in world.nodes]
    amounts = dict.fromkeys(keys, KOII // 5) | {keys[2]: -2 * KOII}
    content = encode_list(amounts)
    assert 512 < len(content) < 1024
    world.at(world.clock.distribution(0).opens)
    receipts = await world.nodes[0].submit_list(world.task, 0, amounts)
    assert len(receipts) == 3 + (readings.data_account is DataAccount.SEPARATE)
    state = await world.creator.koii_state(world.task)
    [listed] = state.distribution_rewards_submission[0].values()

    assert world.chain.data(base58.b58decode(listed.value)).rstrip(b"\0") == content
    assert json.loads(content)[base58.b58encode(keys[2]).decode()] == -2 * KOII

    with pytest.raises(TransactionFailed):
        await world.creator.payout(world.task, 0, keys[0])
    world.at(world.clock.settles_at(0))
    await world.creator.payout(world.task, 0, keys[0])
    with pytest.raises(TransactionFailed) as caught:
        await world.nodes[1].payout(world.task, 0, keys[0])
    assert code(caught) == E_TWICE
    state = await world.creator.koii_state(world.task)
    assert state.distributions_audit_record == {0: PayoutRecord.SUCCESSFUL}
    assert state.stake_list[keys[2]] == KOII
    assert state.available_balances == {key: KOII // 5 for key in keys if key != keys[2]}
    assert state.total_bounty_amount == BOUNTY - 11 * (KOII // 5)

    beneficiary = address(keypair("somebody"))
    await world.nodes[1].claim_reward(world.task, beneficiary)
    assert world.chain.balance(beneficiary) == KOII // 5
    with pytest.raises(TransactionFailed):
        await world.nodes[1].claim_reward(world.task, beneficiary)


@pytest.mark.parametrize("submitters_only", [False, True])
async def test_whether_list_keys_must_have_submitted(submitters_only: bool) -> None:
    """The unknown that decides whether native payout works at all beside off-chain submissions."""
    world = await StandinWorld(submitters_only=submitters_only).start()
    keys = [node.staker or b"" for node in world.nodes]
    encode = KoiiInstructions(NATIVE, NATIVE.program)
    world.at(world.clock.submission(0).opens)
    world.chain.ok(encode.submit_task(world.task, keys[0], 0, b"work"), signers=[keypair("koii staker 0")])
    world.at(world.clock.distribution(0).opens)
    await world.nodes[0].submit_list(world.task, 0, {keys[1]: KOII})
    if submitters_only:
        with pytest.raises(TransactionFailed) as caught:
            await world.nodes[1].submit_list(world.task, 0, {keys[0]: KOII})
        assert code(caught) == E_NO_CANDIDATE
    world.at(world.clock.settles_at(0))
    await world.creator.payout(world.task, 0, keys[0])
    state = await world.creator.koii_state(world.task)
    expected = PayoutRecord.FAILED if submitters_only else PayoutRecord.SUCCESSFUL
    assert state.distributions_audit_record == {0: expected}
    assert state.available_balances == ({} if submitters_only else {keys[1]: KOII})


@pytest.mark.parametrize(("counts", "paid"), [(True, False), (False, True)])
async def test_a_lone_raise_against_a_list(counts: bool, paid: bool) -> None:
    world = await StandinWorld(replace(NATIVE, raise_is_vote=counts)).start()
    keys = [node.staker or b"" for node in world.nodes]
    world.at(world.clock.distribution(0).opens)
    await world.nodes[0].submit_list(world.task, 0, {keys[1]: KOII})
    world.at(world.clock.distribution_audit(0).opens)
    await world.nodes[1].vote_on_list(world.task, 0, keys[0], valid=False)
    world.at(world.clock.settles_at(0))
    await world.creator.payout(world.task, 0, keys[0])
    record = (await world.creator.koii_state(world.task)).distributions_audit_record[0]
    assert (record is PayoutRecord.SUCCESSFUL) == paid


async def test_a_list_above_the_bounty_fails(world: StandinWorld) -> None:
    keys = [node.staker or b"" for node in world.nodes]
    world.at(world.clock.distribution(0).opens)
    await world.nodes[0].submit_list(world.task, 0, {keys[1]: 3 * KOII + 1})
    world.at(world.clock.settles_at(0))
    await world.creator.payout(world.task, 0, keys[0])
    state = await world.creator.koii_state(world.task)
    assert (state.distributions_audit_record, state.available_balances) == ({0: PayoutRecord.FAILED}, {})
    with pytest.raises(ProgramRefused):
        await world.creator.payout(world.task, 0, keys[1])


async def test_a_stake_is_locked_then_withdrawn_and_claimed(world: StandinWorld) -> None:
    node, beneficiary = world.nodes[2], address(keypair("somebody"))
    await _anchor(world, 0, committer=2)
    with pytest.raises(TransactionFailed) as caught:
        await node.withdraw(world.task)
    assert code(caught) == E_LOCKED
    world.at(1000 + 5 * 100)
    await node.withdraw(world.task)
    await node.claim_reward(world.task, beneficiary)
    assert world.chain.balance(beneficiary) == 3 * KOII
    assert len(await world.creator.stakes(world.task)) == 2


async def test_fund_top_up_and_switch(world: StandinWorld) -> None:
    pot = (await world.creator.koii_state(world.task)).stake_pot_account
    before = world.chain.balance(pot)
    await world.creator.fund(world.task, 7 * KOII)
    await world.creator.set_active(world.task, active=False)
    state = await world.creator.koii_state(world.task)
    assert (state.total_bounty_amount, world.chain.balance(pot) - before) == (BOUNTY + 7 * KOII, 7 * KOII)
    assert not state.is_active
    assert not (await world.nodes[0].task_state(world.task)).active
    world.at(world.clock.distribution(0).opens)
    with pytest.raises(TransactionFailed):
        await world.nodes[0].anchor_commitment(world.task, 0, b"c" * 32)
    with pytest.raises(TransactionFailed):
        await world.nodes[0].set_active(world.task, active=True)


async def test_a_stake_of_the_other_length_is_refused() -> None:
    world = StandinWorld(NATIVE, client=replace(NATIVE, stake_names_address=False))
    with pytest.raises(TransactionFailed) as caught:
        await world.start()
    assert code(caught) == E_LENGTH


# -- what is refused here

Call = Callable[[KoiiTaskSettlement, bytes], Awaitable[object]]
REFUSED: dict[str, Call] = {
    "settle": lambda node, task: node.settle(task, 0, Leaf(b"s" * 32, 1, 0), Proof((), 0), b"b" * 32),
    "second commitment attempt": lambda node, task: node.anchor_commitment(task, 0, b"c" * 32, attempt=1),
    "second list attempt": lambda node, task: node.anchor_list(task, 0, b"c" * 32, 0, 0, attempt=1),
    "veto of a second attempt": lambda node, task: node.veto(task, 0, 1),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=list(REFUSED))
async def test_what_koiis_program_cannot_do(world: StandinWorld, call: Call) -> None:
    sent = len(world.rpc.sent)
    with pytest.raises(NotCarried, match="koii-task carrier cannot"):
        await call(world.nodes[0], world.task)
    assert len(world.rpc.sent) == sent


def test_kpl_tasks_are_not_run() -> None:
    world = StandinWorld()
    with pytest.raises(NotCarried, match="KPL"):
        KoiiTaskSettlement(world.rpc, replace(world.settings, readings=KPL), world.chain.payer)


async def test_unknown_tasks_and_missing_keys(world: StandinWorld) -> None:
    with pytest.raises(UnknownTask):
        await world.creator.task_state(b"u" * 32)
    with pytest.raises(UnknownTask):
        await world.creator.task_state(address(world.chain.payer))
    world.at(world.clock.distribution(0).opens)
    with pytest.raises(ConfigurationError, match="staking key"):
        await world.creator.anchor_commitment(world.task, 0, b"c" * 32)
    with pytest.raises(ProgramRefused):
        await world.nodes[0].anchor_list(world.task, 0, b"l" * 32, 0, 0)
    used = KoiiTaskSettlement(world.rpc, world.settings, world.chain.payer, world.chain.payer)
    with pytest.raises(ConfigurationError, match="another program"):
        await used.stake(world.task, KOII, b"b" * 32)
    long = KoiiTaskSettlement(world.rpc, replace(world.settings, network="n" * 65), world.chain.payer)
    with pytest.raises(ConfigurationError, match="cannot be created"):
        await long.create_task(terms(), 5)
    with pytest.raises(ChainError):
        await world.creator.create_task(terms(), 1)
