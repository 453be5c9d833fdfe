"""Random lives of a task, right and wrong, done to the program and to its model; every account is compared every time.

`scripts/model_sequences.py` runs as many of them as one likes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from koii_p2p.rounds.audit_rules import AuditRules
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.roster import roster_at
from koii_p2p.rounds.terms import U64_MAX, TaskTerms
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement import layouts as at
from koii_p2p.settlement.history import ChainEntry, check_history, read_entries
from koii_p2p.settlement.interface import TaskState
from koii_p2p.settlement.refusals import ProgramError as E

from .reference_model import Model, ModelRound, Refused, Shown, root_of
from .virtual_chain import KOII, VirtualChain, address, keypair
from .virtual_rpc import VirtualRpc

STAKERS: Final = 4
BOUNTY: Final = 3 * KOII
NONCE: Final = 7
BOUNDS: Final = (0, 3, 6, 9, 14, 17)
"""Slots of a period: the bounds of its windows, and within."""
KINDS: Final = (
    *("commit", "anchor", "settle") * 6,
    *("veto", "withdraw") * 4,
    *("stake", "unstake") * 3,
    *("fund", "set_active", "update", "close", "close_stake", "create"),
)


@cache
def person(name: str) -> Keypair:
    return keypair(name)


@dataclass(frozen=True)
class Deed:
    """One transaction: what it does to the model, and how it is made."""

    does: Callable[[Model], None]
    makes: Callable[[], Instruction]
    signers: tuple[Keypair, ...] = ()

    def refusal(self, model: Model) -> E | None:
        """What the model says to it; the model is changed unless it refuses."""
        try:
            self.does(model)
        except Refused as refused:
            return refused.error
        return None


class Life(RuleBasedStateMachine):
    """A task, four who stake in it, two who do not, and one thief."""

    seen: Counter[str] = Counter()
    """What happened, over all lives: instructions that were done, and refusals."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = VirtualChain()
        self.creator, self.thief = self.chain.payer, self.chain.rich("thief")
        self.stakers = [person(f"staker {number}") for number in range(STAKERS)]
        # One beneficiary has no account yet, so that it can't be paid little; two stakers have the same one.
        wallets = [person(f"beneficiary {number}") for number in range(3)]
        for wallet in wallets[:2]:
            self.chain.svm.airdrop(wallet.pubkey(), KOII)
        self.beneficiaries = [address(wallets[number]) for number in (0, 1, 2, 0)]
        terms = TaskTerms(
            task=ix.task_address(address(self.creator), NONCE),
            creator=address(self.creator),
            name="model",
            starting_slot=100,
            round_time=20,
            submission_window=6,
            audit_window=8,
            bounty_per_round=BOUNTY,
            minimum_stake=2 * KOII,
            allowed_failed_distributions=2,
            audit=AuditRules(auditors=5, quorum=3),
        )
        known = [address(self.creator), address(self.thief), *self.beneficiaries]
        balances = {key: self.chain.balance(key) for key in known}
        self.model = Model(terms, NONCE, cache(self.chain.rent), balances)
        self.task, self.terms = terms.task, terms
        self.lists: dict[bytes, tuple[Leaf, ...]] = {root_of(()): ()}
        self.honest = True
        self.committed: set[tuple[int, int]] = set()
        self.to(50)
        self.do(self.create())
        self.do(self.fund(address(self.creator), 10 * KOII))
        for index in range(3):
            self.do(self.stake(index, 5 * KOII))

    # -- time

    def to(self, slot: int) -> None:
        self.chain.at(slot)
        self.model.slot = slot

    @rule(bounds=st.sampled_from([1, 1, 1, 2, 2, 3, 4, 6, 12, 18, 30, 120, 420]))
    def wait(self, bounds: int) -> None:
        """Until so many bounds of windows are past; each period has six."""
        for _ in range(bounds):
            offset = (self.model.slot - self.terms.starting_slot) % self.terms.round_time
            later = next((bound for bound in BOUNDS if bound > offset), self.terms.round_time)
            self.to(self.model.slot + later - offset)

    # -- deeds

    @rule(data=st.data(), vetoes=st.sampled_from([0, 0, 0, 1, 2, 3]))
    def play_a_round(self, data: st.DataObject, vetoes: int) -> None:
        """A commitment and a list, if they can be made, and vetoes: what everything else is about."""
        round = max(0, self.terms.clock.period(self.model.slot) - 1)
        clock = self.terms.clock
        self.to(max(self.model.slot, clock.commitment(round).opens))
        self._do_right("commit", data)
        self.to(max(self.model.slot, clock.distribution(round).opens))
        self._do_right("anchor", data)
        if vetoes:
            self.to(max(self.model.slot, clock.distribution_audit(round).opens))
        for _ in range(vetoes):
            self._do_right("veto", data)

    @rule(data=st.data(), rare=st.integers(0, 9))
    def end(self, data: st.DataObject, rare: int) -> None:
        """Everybody leaves, is paid, and the task is closed, as far as it can be."""
        if rare or not self.model.exists:
            return
        self.do(self._set_active(self.creator, 0), "set_active")
        for _ in self.stakers:
            self._do_right("unstake", data)
        self.to(self.model.slot + data.draw(st.sampled_from([60, 120, 1400]), label="slots"))
        for kind in ("settle", "withdraw", "settle"):
            for _ in self.stakers:
                self._do_right(kind, data)
        self._do_right("close", data)
        self._do_right("close_stake", data)

    def _do_right(self, kind: str, data: st.DataObject) -> None:
        right = [one for one in self.choices(kind, data) if one.refusal(self.model.copy()) is None]
        if right:
            self.do(right[data.draw(st.integers(0, len(right) - 1), label="which")], kind)

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        self._act(data)

    @rule(data=st.data())
    def act_again(self, data: st.DataObject) -> None:
        """As `act`: so that time passes less often than something is done."""
        self._act(data)

    @rule(data=st.data())
    def act_once_more(self, data: st.DataObject) -> None:
        """As `act`."""
        self._act(data)

    def choices(self, kind: str, data: st.DataObject) -> list[Deed]:
        return list(getattr(self, f"some_{kind}")(data))

    def _act(self, data: st.DataObject) -> None:
        """One deed; most are right. If none of a kind can be, another kind is tried."""
        wrong = data.draw(st.integers(0, 5), label="wrong") == 0
        for kind in data.draw(st.lists(st.sampled_from(KINDS), min_size=4, max_size=4), label="kinds"):
            chosen = self.choices(kind, data)
            if not wrong:
                chosen = [one for one in chosen if one.refusal(self.model.copy()) is None]
            if chosen:
                self.do(chosen[data.draw(st.integers(0, len(chosen) - 1), label="which")], kind)
                return

    def do(self, deed: Deed, kind: str = "") -> None:
        """Do it to both; they agree about the outcome and about every account."""
        before = self.model.copy()
        instruction = deed.makes()  # as the accounts are now
        expected = deed.refusal(self.model)
        result = self.chain.send(instruction, signers=deed.signers)
        assert result.error is expected, (kind, result.err, expected)
        assert (result.err is None) is (expected is None), (kind, result.err)
        self.model.balances[address(self.creator)] -= result.fee
        self.seen[kind if expected is None else expected.name] += 1
        self.compare()
        self.check(before, kind if expected is None else "")

    def compare(self) -> None:
        for key, data in self.model.accounts():
            assert self.chain.data(key) == data
        for key, amount in self.model.balances.items():
            assert self.chain.balance(key) == amount

    def check(self, before: Model, done: str) -> None:
        """What always holds, whatever anybody does."""
        model, stakes = self.model, self.model.stakes.values()
        assert model.paid == sum(one.reward_total for one in stakes) or model.closed
        assert model.slashed + model.forgiven == sum(one.slash_total for one in stakes) or model.closed
        final = model.final()
        assert (model.paid <= final.reward_total, model.slashed <= final.slash_total) == (True, True)
        for one in stakes:
            lamports = model.balances[model.stake_address(one.staker)]
            assert lamports == one.amount + model.rent(at.STAKE_LAYOUT.size)
        if done == "commit":
            (new,) = [one for place, one in model.ring.items() if one != before.ring.get(place)]
            assert (new.number, new.attempt) not in self.committed
            self.committed.add((new.number, new.attempt))
        if done == "withdraw":
            self.check_withdrawal(before)
        if self.honest and model.exists:
            owed = model.newest.reward_total - model.paid
            assert model.available + sum(self.takable(model.newest)) >= owed

    def check_withdrawal(self, before: Model) -> None:
        (new,) = [one for key, one in self.model.stakes.items() if one != before.stakes[key]]
        old = before.stakes[new.staker]
        assert self.model.slot >= old.unstake_slot + 3 * self.terms.round_time
        since = max(old.unstake_slot, self.model.newest.list_slot)
        if self.model.slot >= since + at.ESCAPE_PERIODS * self.terms.round_time:
            self.honest = (
                False  # it may have left a slash behind, after everybody had had the time to take it
            )
        if self.honest:  # no list that stands, final or not, knows of a slash that did not land
            for listed in (self.model.settled, *self.model.ring.values()):
                for leaf in self.lists[listed.list_root] if listed.stands else ():
                    assert leaf.staker != new.staker or leaf.slash_total <= new.slash_total

    def takable(self, listed: ModelRound) -> Iterator[int]:
        for leaf in self.lists[listed.list_root] if listed.stands else ():
            stake = self.model.stakes[leaf.staker]
            yield min(stake.amount, max(0, leaf.slash_total - stake.slash_total))

    def teardown(self) -> None:
        """The transactions prove the account."""
        if not self.model.exists:
            return
        vault = self.chain.balance(self.model.vault) - self.model.rent(at.VAULT_LAYOUT.size)
        state: TaskState = at.decode_task(self.task, self.chain.data(self.task), vault=vault)
        rpc = VirtualRpc(self.chain)
        entries: list[ChainEntry] = []
        for landed in self.chain.landed:
            truth = rpc.truth(landed)
            assert truth.line is not None
            entries += read_entries(truth.line, truth.record, self.task)
        assert check_history(entries, state) == ()

    # -- some deeds of each kind

    def create(self) -> Deed:
        return Deed(Model.create, lambda: ix.create_task(self.terms, NONCE))

    def some_create(self, _: st.DataObject) -> Iterator[Deed]:
        yield self.create()

    def fund(self, funder: bytes, amount: int) -> Deed:
        signer = self.thief if funder == address(self.thief) else self.creator
        return Deed(
            lambda model: model.fund(funder, amount), lambda: ix.fund(self.task, funder, amount), (signer,)
        )

    def some_fund(self, _: st.DataObject) -> Iterator[Deed]:
        for amount in (0, 1, 3 * KOII, 9 * KOII, U64_MAX):
            yield self.fund(address(self.thief), amount)

    def stake(self, index: int, amount: int, beneficiary: bytes | None = None) -> Deed:
        payer, staker = address(self.creator), self.stakers[index]
        to = self.beneficiaries[index] if beneficiary is None else beneficiary
        return Deed(
            lambda model: model.stake(payer, address(staker), to, amount),
            lambda: ix.stake(self.task, payer, address(staker), to, amount),
            (staker,),
        )

    def some_stake(self, _: st.DataObject) -> Iterator[Deed]:
        for index in range(STAKERS):
            for amount in (0, 1, KOII, 2 * KOII, 5 * KOII):
                yield self.stake(index, amount)
            yield self.stake(index, 2 * KOII, address(self.thief))
            yield self.stake(index, 2 * KOII, bytes(32))

    def some_unstake(self, _: st.DataObject) -> Iterator[Deed]:
        for staker in self.stakers:
            for signer in (staker, self.thief):
                yield Deed(
                    partial(Model.unstake, signer=address(signer), staker=address(staker)),
                    partial(self._unstake, signer, staker),
                    (signer,),
                )

    def _unstake(self, signer: Keypair, staker: Keypair) -> Instruction:
        return _signed_by(ix.request_unstake(self.task, address(staker)), address(signer))

    def shown(self) -> Iterator[Shown]:
        """Leaves of the lists that the chain knows, right ones and leaves of lists that never were."""
        final = self.model.final()
        for listed in {final.number: final} | {one.number: one for one in self.model.ring.values()}:
            one = self.model.held(listed) or final
            if one.list_root not in self.lists or one.state < 2:
                continue
            tree = self.lists[one.list_root]
            for leaf in tree:
                yield Shown(one.number, leaf, tree)
                yield Shown(one.number + 1, leaf, tree)
            if tree:
                liar = Leaf(tree[0].staker, tree[0].reward_total + KOII, 0)
                yield Shown(one.number, liar, (liar, *tree[1:]))

    def some_withdraw(self, data: st.DataObject) -> Iterator[Deed]:
        shown: list[Shown | None] = [None, *self.shown()]
        key = data.draw(st.integers(0, STAKERS - 1), label="staker")
        for index in range(key, key + STAKERS):
            staker, to = self.stakers[index % STAKERS], self.beneficiaries[index % STAKERS]
            mine = [one for one in shown if one is None or one.leaf.staker == address(staker)]
            for one in mine:
                yield self._withdraw(staker, staker, to, one)
            yield self._withdraw(self.thief, staker, to, mine[-1])
            yield self._withdraw(staker, staker, address(self.thief), mine[-1])
        yield self._withdraw(staker, staker, to, shown[-1])

    def _withdraw(self, signer: Keypair, staker: Keypair, to: bytes, shown: Shown | None) -> Deed:
        def makes() -> Instruction:
            leaf = () if shown is None else (shown.round, shown.leaf, shown.proof)
            return _signed_by(ix.withdraw(self.task, address(staker), to, *leaf), address(signer))

        does = partial(
            Model.withdraw, signer=address(signer), staker=address(staker), beneficiary=to, shown=shown
        )
        return Deed(does, makes, (signer,))

    def rounds(self) -> list[tuple[int, int]]:
        """Rounds and attempts that something could be done with now, and some with which nothing can."""
        period = self.terms.clock.period(self.model.slot)
        found = []
        for round in range(max(0, period - 5), max(1, period + 1)):
            place = self.model.held(round)
            attempt = 0 if place is None else place.attempt
            found += [(round, attempt), (round, attempt + 1)]
        return [*found, (max(0, period - 17), 0), (max(0, period - 2), 3)]

    def some_commit(self, _: st.DataObject) -> Iterator[Deed]:
        for round, attempt in self.rounds():
            digest = hashlib.sha256(b"%d.%d" % (round, attempt)).digest()
            for staker in (*self.stakers, self.thief):
                key = address(staker)
                yield Deed(
                    partial(Model.commit, signer=key, round=round, attempt=attempt, digest=digest),
                    partial(ix.anchor_commitment, self.task, key, round, digest, attempt=attempt),
                    (staker,),
                )

    def some_anchor(self, data: st.DataObject) -> Iterator[Deed]:
        lie = data.draw(st.sampled_from(["", "", "", "", "more", "less", "greedy", "slash"]), label="lie")
        shares = data.draw(
            st.lists(st.integers(0, BOUNTY // STAKERS), min_size=4, max_size=4), label="rewards"
        )
        guilty = data.draw(st.integers(-4, STAKERS - 1), label="guilty")
        for round, attempt in self.rounds():
            leaves = self.next_leaves(round, shares, guilty, lie)
            self.lists[root_of(leaves)] = leaves
            rewards = sum(leaf.reward_total for leaf in leaves) + (lie == "more") - (lie == "less")
            slashes = sum(leaf.slash_total for leaf in leaves)
            if not rewards >= 0:
                continue
            for staker in self.stakers:
                yield self._anchor(staker, round, attempt, root_of(leaves), rewards, slashes, bool(lie))

    def _anchor(
        self, staker: Keypair, round: int, attempt: int, root: bytes, rewards: int, slashes: int, lie: bool
    ) -> Deed:
        key = address(staker)

        def does(model: Model) -> None:
            model.anchor(key, round, attempt, root, rewards, slashes)
            if model is self.model and lie:
                self.honest = False

        makes = partial(ix.anchor_list, self.task, key, round, root, rewards, slashes, attempt=attempt)
        return Deed(does, makes, (staker,))

    def next_leaves(self, round: int, shares: list[int], guilty: int, lie: str) -> tuple[Leaf, ...]:
        """The list after the newest: shares of the bounty for the roster, and one who is slashed by 70 %."""
        before = (
            {leaf.staker: leaf for leaf in self.lists[self.model.newest.list_root]}
            if (self.model.newest.stands)
            else {}
        )
        members = roster_at([one.history for one in self.model.stakes.values()], round, self.terms)
        made = dict(before)
        for index, staker in enumerate(self.stakers):
            key = address(staker)
            old = before.get(key, Leaf(key, 0, 0))
            if key not in members and not (lie == "slash" and key in self.model.stakes):
                continue
            stake = self.model.stakes[key]
            at_risk = max(0, stake.amount - max(0, old.slash_total - stake.slash_total))
            loss = at_risk * 7 // 10 if index == guilty or lie == "slash" else 0
            gain = shares[index] + (BOUNTY if lie == "greedy" else 0)
            made[key] = Leaf(key, old.reward_total + gain, old.slash_total + loss)
        return tuple(made[key] for key in sorted(made))

    def some_veto(self, _: st.DataObject) -> Iterator[Deed]:
        for round, attempt in self.rounds():
            place = self.model.held(round)
            committer = address(self.stakers[0]) if place is None else place.commitment_by
            lister = place.list_by if place is not None and place.state == 2 else None
            for staker in (*self.stakers, self.thief):
                yield self._veto(staker, round, attempt, committer, lister)
            yield self._veto(self.stakers[1], round, attempt, address(self.stakers[1]), None)

    def _veto(self, staker: Keypair, round: int, attempt: int, by: bytes, lister: bytes | None) -> Deed:
        key = address(staker)
        return Deed(
            lambda model: model.veto(key, round, attempt, by, lister),
            lambda: ix.veto(self.task, key, round, attempt, by, lister),
            (staker,),
        )

    def some_settle(self, data: st.DataObject) -> Iterator[Deed]:
        pay = data.draw(st.sampled_from([True, True, True, False]), label="pay")
        for shown in self.shown():
            place = self.stakers.index(person_of(self.stakers, shown.leaf.staker))
            yield self._settle(shown, place, place, pay)
            yield self._settle(shown, place, (place + 1) % STAKERS, pay)

    def _settle(self, shown: Shown, staker: int, beneficiary: int, pay: bool) -> Deed:
        key, to = address(self.stakers[staker]), self.beneficiaries[beneficiary]
        return Deed(
            lambda model: model.settle(key, to, shown, pay),
            lambda: ix.settle(self.task, shown.round, shown.leaf, shown.proof, to, pay=pay),
        )

    def some_set_active(self, data: st.DataObject) -> Iterator[Deed]:
        # Mostly active: an inactive task has little to show.
        value = data.draw(st.sampled_from([1, 1, 0]), label="active")
        for signer, flag in ((self.creator, value), (self.thief, value), (self.creator, 2)):
            yield self._set_active(signer, flag)

    def _set_active(self, signer: Keypair, value: int) -> Deed:
        def makes() -> Instruction:
            good = ix.set_active(self.task, address(signer), True)
            return Instruction(good.program_id, bytes([ix.Tag.SET_ACTIVE, value]), good.accounts)

        return Deed(lambda model: model.set_active(address(signer), value), makes, (signer,))

    def some_update(self, _: st.DataObject) -> Iterator[Deed]:
        for signer in (self.creator, self.thief):
            for text, successor in (("", None), ("a" * 64, None), ("b", address(self.thief))):
                key = address(signer)
                yield Deed(
                    partial(
                        Model.update, signer=key, metadata=text.encode(), successor=successor, genuine=False
                    ),
                    partial(ix.update_task, self.task, key, text, successor),
                    (signer,),
                )

    def some_close(self, _: st.DataObject) -> Iterator[Deed]:
        for signer in (self.creator, self.thief):
            key = address(signer)
            yield Deed(partial(Model.close, signer=key), partial(ix.close, self.task, key), (signer,))

    def some_close_stake(self, _: st.DataObject) -> Iterator[Deed]:
        for staker, beneficiary in zip(self.stakers, self.beneficiaries, strict=True):
            for to in (beneficiary, address(self.thief)):
                key = address(staker)
                yield Deed(
                    partial(Model.close_stake, staker=key, beneficiary=to),
                    partial(ix.close_stake, self.task, key, to),
                )


def person_of(keys: Iterable[Keypair], key: bytes) -> Keypair:
    return next(one for one in keys if address(one) == key)


def _signed_by(instruction: Instruction, signer: bytes) -> Instruction:
    """The instruction with another key in the first place, which signs."""
    metas = list(instruction.accounts)
    metas[0] = type(metas[0])(Pubkey(signer), True, metas[0].is_writable)
    return Instruction(instruction.program_id, bytes(instruction.data), metas)


def live(sequences: int, steps: int, *, derandomize: bool = True) -> Counter[str]:
    """Run this many random lives of this many steps; what happened in them."""
    Life.seen = Counter()
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=steps,
            derandomize=derandomize,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Life.seen


def test_the_program_is_its_model() -> None:
    seen = live(sequences=50, steps=50)
    print(sorted(seen.items()))
    # Not vacuous: all of these were done, and many kinds of wrong deeds tried.
    common = {"commit", "anchor", "veto", "settle", "stake", "unstake", "withdraw", "set_active", "update"}
    assert common <= set(seen)
    assert len([name for name in seen if name.isupper()]) >= 12
