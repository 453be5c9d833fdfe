"""Runs the vectors of the rounds against the library, and the library's digests and draws against other code.

`docs/vectors.md` describes the files. What is recomputed here uses hashlib and cbor2 alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256, shake_256
from pathlib import Path
from typing import Any

import cbor2
import pytest

from koii_p2p.limits import Limits
from koii_p2p.records.envelope import decode_record
from koii_p2p.records.reasons import RecordError, RecordReason
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds import merkle
from koii_p2p.rounds.admission import Admitted, Source, admit
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import AuditRules, Profile, Weights
from koii_p2p.rounds.beacon import beacon
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.commitment import Bundle, Commitment, CommitmentError, build_commitment
from koii_p2p.rounds.distribution import (
    DistributionError,
    DistributionList,
    Leaf,
    default_distribution,
    next_list,
    submitters_of,
)
from koii_p2p.rounds.item_set import ItemSet
from koii_p2p.rounds.leader import leader_order, tickets
from koii_p2p.rounds.range_messages import ReconcileError
from koii_p2p.rounds.reasons import Reason
from koii_p2p.rounds.reconcile import Reconciler
from koii_p2p.rounds.record_book import RecordBook
from koii_p2p.rounds.reputation import Reputation, RoundStanding, audit_rate, counts_in, reputations
from koii_p2p.rounds.roster import Checkpoint, Roster, StakeHistory, roster_at
from koii_p2p.rounds.round_records import MisplacedRecord, sort_records
from koii_p2p.rounds.round_state import RoundState
from koii_p2p.rounds.tally import AuditorStatus, Cast, Finders, Outcome, Tally, tally
from tests.rounds.vectors import (
    Json,
    Names,
    items,
    leaf_of,
    octets,
    path_of,
    read,
    recompute_commitment,
    recompute_list,
    record_of,
    roster_in,
    roster_of,
    rules_of,
    terms_in,
    tree,
    weighed_draw,
)

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "tests" / "vectors"
UNREADABLE = {reason.value for reason in RecordReason} - {reason.value for reason in Reason}
OTHERS = {"records"}  # run by tests/records/test_vectors.py

# --- admission


def run_admission(file: Json, case: Json) -> None:
    terms, genesis, number = terms_in(file, case), octets(file["genesis"]), file["round"]
    assert terms.clock.work(number).opens == file["start"]
    roster = roster_in(file, case, terms.audit.weights)
    seed = beacon(octets(file["blockhash"]), terms.task, number)
    assignment = AuditAssignment(seed, roster, terms.audit)
    names = {raw: name for name, raw in file["records"].items()}
    book = RecordBook(terms, genesis, Limits())
    state = book.rounds[number] = RoundState(terms.task, number)

    def learn(what: str) -> None:
        if what == "roster":
            state.roster = roster
        else:
            assert what == "beacon"
            state.beacon, state.assignment = seed, assignment

    for what in case["knows"]:
        learn(what)
    for step in case["steps"]:
        if "learn" in step:
            learn(step["learn"])
        elif "judge_parked" in step:
            admitted = book.unpark(state, file["start"] + step["offset"])
            assert sorted(names[record.raw.hex()] for record in admitted) == step["admitted"]
        else:
            judge(book, state, step, octets(file["records"][step["record"]]), file["start"] + step["offset"])
    raws = {name: octets(raw) for name, raw in file["records"].items()}
    ids = {sha256(raw).digest(): name for name, raw in raws.items()}
    assert {
        "held": sorted(ids[id_] for id_ in state.by_id),
        "timely": sorted(ids[id_] for id_ in state.timely),
        "parked": sorted(ids[id_] for id_ in state.parked),
        "conflicts": sorted(ids[record.id] for record in state.equivocations.values()),
        "presences": sorted(ids[record.id] for record in book.presences()),
    } == case["after"]


def judge(book: RecordBook, state: RoundState, step: Json, raw: bytes, slot: int) -> None:
    source = Source(step["source"])
    if "reason" in step and step["reason"] in UNREADABLE:
        with pytest.raises(RecordError) as caught:
            decode_record(raw)
        assert caught.value.reason.value == step["reason"]
    else:
        decided = admit(book, decode_record(raw), slot, source)
        if isinstance(decided, Admitted):
            assert (step["expect"], step.get("reason")) == ("accept", None)
            assert decided.timely is step["timely"]
        else:
            assert decided.reason.value == step["reason"]
            assert decided.parked is step["parked"]
    action, record = book.receive(raw, source, slot)
    assert action.value == step["expect"]
    assert (record is not None) is (step["expect"] == "accept")
    if "parked" in step:
        assert (sha256(raw).digest() in state.parked) >= step["parked"]


# --- assignments


def run_clock(file: Json, case: Json) -> None:
    clock, attempt = RoundClock(**case["clock"]), case["attempt"]
    for name, (opens, closes) in case["expect"].items():
        tried = name in ("commitment", "distribution", "distribution_audit")
        method = getattr(clock, name)
        window = method(case["round"], attempt) if tried else method(case["round"])
        assert (window.opens, window.closes) == (opens, closes), name


def run_roster(file: Json, case: Json) -> None:
    histories = [
        StakeHistory(
            octets(one["staker"]),
            octets(one["beneficiary"]),
            tuple(
                Checkpoint(point["slot"], int(point["stake"]), int(point["slash_total"]))
                for point in one["checkpoints"]
            ),
            one["unstake_slot"],
        )
        for one in case["histories"]
    ]
    terms, expect = terms_in(file, case), case["expect"]
    expected = roster_of({"round": file["round"], **expect}, terms.audit.weights)
    assert roster_at(histories, file["round"], terms) == expected
    assert roster_at(histories[::-1], file["round"], terms) == expected


def run_beacon(file: Json, case: Json) -> None:
    blockhash, task, number = octets(case["blockhash"]), octets(case["task"]), case["round"]
    text = b"koii-p2p/1 beacon" + blockhash + task + number.to_bytes(8, "little")
    assert beacon(blockhash, task, number).hex() == case["expect"]["beacon"] == sha256(text).hexdigest()


def run_rules(file: Json, case: Json) -> None:
    rules = rules_of(case["rules"])
    for count in case["expect"]["counts"]:
        assert rules.auditors_among(count["others"]) == count["auditors"], count


def check_draw(names: Names, assignment: AuditAssignment, seed: bytes, author: bytes, expect: Json) -> None:
    rules, roster = assignment.rules, assignment.roster
    found = {
        "audited": assignment.is_audited(author),
        "auditors": names.of(assignment.auditors_of(author)),
        "committee": names.of(assignment.committee_of(author)),
    }
    assert found == expect
    rank = int.from_bytes(sha256(b"koii-p2p/1 audited" + seed + author).digest(), "big") % 10_000
    assert (rank < rules.audit_rate) is expect["audited"]
    if rules.profile is Profile.KOII:
        assert expect["auditors"] == expect["committee"] == []
        return
    weights = {key: roster.weight_of(key) for key in roster.keys}
    others = len(weights) - (author in weights)
    due = others if rules.profile is Profile.ALL else min(rules.auditors, others)
    first = weighed_draw(weights, seed, author, due) if expect["audited"] else []
    assert names.of(first) == expect["auditors"]
    assert names.of(weighed_draw(weights, seed, author, min(due + 111, others))) == expect["committee"]


def run_draw(file: Json, case: Json) -> None:
    names, rules, seed = Names(file), rules_of(case["rules"]), octets(file["beacon"])
    assignment = AuditAssignment(seed, roster_in(file, case, rules.weights), rules)
    check_draw(names, assignment, seed, names.keys[case["author"]], case["expect"])


def run_choice(file: Json, case: Json) -> None:
    names, seed, expect = Names(file), octets(file["beacon"]), case["expect"]
    empty = Roster(3, ())
    if sample := case.get("sample"):
        auditor, authors = names.keys[sample["auditor"]], [names.keys[name] for name in sample["authors"]]
        ranks = sorted(authors, key=lambda key: sha256(b"koii-p2p/1 sample" + seed + auditor + key).digest())
        assert expect == names.of(sorted(key for key in ranks[:5] if key != auditor))
        assert expect == names.of(AuditAssignment(seed, empty, AuditRules()).sample_of(auditor, authors))
    elif seats := case.get("seats"):
        keys = [names.keys[name] for name in seats["witnesses"]]
        ranks = sorted(keys, key=lambda key: sha256(b"koii-p2p/1 seat" + seed + key).digest())
        assert expect == names.of(sorted(ranks[: seats["seats"]]))
        rules = AuditRules(witness_seats=seats["seats"])
        assert expect == names.of(AuditAssignment(seed, empty, rules).seated(keys))
    else:
        keys = [names.keys[name] for name in case["leaders"]["candidates"]]
        scores = case["leaders"]["scores"]
        place = {
            key: min(
                sha256(seed + key + bytes([t])).digest()
                for t in range(1 + scores.get(names.names[key], 0) * 7 // 10_000)
            )
            for key in keys
        }
        assert expect == names.of(sorted(keys, key=place.__getitem__))
        assert expect == names.of(leader_order(seed, keys, names.by_key(scores)))


# --- tallies


def run_tally(file: Json, case: Json) -> None:
    names, terms, seed, expect = Names(file), terms_in(file, case), octets(file["beacon"]), case["expect"]
    roster = roster_in(file, case, terms.audit.weights)
    assignment = AuditAssignment(seed, roster, terms.audit)
    for author, draw in case["draws"].items():
        check_draw(names, assignment, seed, names.keys[author], draw)

    def votes(stage: Json) -> dict[bytes, dict[bytes, Verdict]]:
        return {
            names.keys[author]: {names.keys[who]: Verdict[what.upper()] for who, what in said.items()}
            for author, said in stage.items()
        }

    challengers = {
        names.keys[author]: {names.keys[who] for who in group}
        for author, group in case["challengers"].items()
    }
    cast = Cast(
        votes(case["first"]), votes(case["full"]), challengers, {names.keys[who] for who in case["canaries"]}
    )
    convicted = [names.keys[who] for who in case["equivocators"]]
    counted = tally([names.keys[author] for author in case["authors"]], cast, assignment, convicted)
    assert {
        "outcomes": names.by_name(counted.outcomes),
        "auditors": names.by_name(counted.auditors),
        "full_audits": sorted(names.of(counted.full_audits)),
        "finders": {
            names.names[author]: {"accusers": names.of(found.accusers), "voters": names.of(found.voters)}
            for author, found in counted.finders.items()
        },
    } == expect
    assert list(counted.outcomes) == sorted(counted.outcomes)
    assert list(counted.auditors) == sorted(counted.auditors)


# --- commitments


def run_commitment(file: Json, case: Json) -> None:
    names, terms, genesis, seed = (
        Names(file),
        terms_in(file, case),
        octets(file["genesis"]),
        octets(file["beacon"]),
    )
    roster = roster_in(file, case, terms.audit.weights)
    raws = {name: octets(file["records"][name]) for name in case["records"]}
    records, previous, expect = (
        [record_of(raw, genesis) for raw in raws.values()],
        octets(case["previous"]),
        case["expect"],
    )
    for order in (records, records[::-1]):
        found = sort_records(order, terms, roster, genesis)
        built = build_commitment(terms, roster, seed, previous, found)
        assert built.bundle.roots == tuple(map(octets, expect["roots"]))
        assert built.bundle.cid.hex() == expect["bundle_cid"]
        assert built.commitment.digest.hex() == expect["digest"]
        by_raw = {raw: name for name, raw in raws.items()}
        chosen = {name: [by_raw[raw] for raw in section] for name, section in built.bundle.sections.items()}
        assert chosen == expect["sections"]
        assert names.by_name(built.commitment.outcome_of) == expect["outcomes"]
        assert names.by_name(dict(built.commitment.auditors)) == expect["auditors"]
    recompute_commitment(file, case, terms, names, raws)
    bundle, commitment = built.bundle.encode(), built.commitment.encode()
    assert Bundle.decode(bundle) == built.bundle
    assert Commitment.decode(commitment) == built.commitment
    assert (expect.get("bundle", bundle.hex()), expect.get("commitment", commitment.hex())) == (
        bundle.hex(),
        commitment.hex(),
    )


def run_misplaced(file: Json, case: Json) -> None:
    terms, genesis = terms_in(file, case), octets(file["genesis"])
    records = [record_of(octets(raw), genesis) for raw in case["records"]]
    with pytest.raises(MisplacedRecord):
        sort_records(records, terms, roster_in(file, case, terms.audit.weights), genesis)


def run_malformed(file: Json, case: Json) -> None:
    decode = {"bundle": Bundle.decode, "commitment": Commitment.decode}[case["artifact"]]
    with pytest.raises(CommitmentError):
        decode(octets(case["bytes"]))


# --- lists and proofs


def run_list(file: Json, case: Json) -> None:
    names, terms, roster = Names(file), terms_in(file, case), roster_in(file, case)
    outcomes = {names.keys[who]: Outcome[what.upper()] for who, what in case["outcomes"].items()}
    convicted = {names.keys[who]: AuditorStatus.EQUIVOCATED for who in case["convicted"]}
    finders = {
        names.keys[who]: Finders(
            *(tuple(names.keys[one] for one in found[side]) for side in ("accusers", "voters"))
        )
        for who, found in case["finders"].items()
    }
    previous = None
    if case["previous"]:
        leaves = sorted(
            leaf_of(names.keys[who], totals) for who, totals in case["previous"]["leaves"].items()
        )
        previous = DistributionList(case["previous"]["round"], tuple(Leaf.decode(leaf) for leaf in leaves))
    amounts = default_distribution(
        submitters_of(outcomes, roster, previous), terms.bounty_per_round, terms.slash_basis_points
    )
    if case["default"] is not None:
        assert {names.names[key]: str(amount) for key, amount in amounts.items()} == case["default"]
    if case["amounts"] is not None:
        amounts = {key: int(amount) for key, amount in names.by_key(case["amounts"]).items()}
    counted, expect = Tally(outcomes, convicted, frozenset(), finders), case["expect"]
    if "refused" in expect:
        with pytest.raises(DistributionError):
            next_list(previous, roster, amounts, terms, counted)
        return
    made = next_list(previous, roster, amounts, terms, counted)
    assert made.round == roster.round
    assert [leaf.encode() for leaf in made.leaves] == sorted(
        leaf_of(names.keys[who], totals) for who, totals in expect["leaves"].items()
    )
    assert (made.root.hex(), made.cid.hex(), made.encode().hex()) == (
        expect["root"],
        expect["cid"],
        expect["bytes"],
    )
    assert (str(made.reward_total), str(made.slash_total)) == (expect["reward_total"], expect["slash_total"])
    assert DistributionList.decode(octets(expect["bytes"])) == made
    for staker, proof in made.proofs().items():
        assert made.proof(staker) == proof
    recompute_list(names, roster.round, expect)


def run_tree(file: Json, case: Json) -> None:
    leaves, expect = [octets(leaf) for leaf in case["leaves"]], case["expect"]
    assert merkle.root(leaves).hex() == expect["root"] == tree(leaves).hex()
    assert len(expect["paths"]) == len(leaves)
    for index, (leaf, path) in enumerate(zip(leaves, expect["paths"], strict=True)):
        proof = merkle.Proof(tuple(map(octets, path["siblings"])), path["directions"])
        assert merkle.prove(leaves, index) == proof
        assert merkle.verify(octets(expect["root"]), leaf, proof)
        sides = [bool(path["directions"] >> bit & 1) for bit in range(len(path["siblings"]))]
        assert path_of(index, leaves) == list(zip(path["siblings"], sides, strict=True))


def run_proof(file: Json, case: Json) -> None:
    leaf, root, siblings = (
        octets(case["leaf"]),
        octets(case["root"]),
        [octets(one) for one in case["siblings"]],
    )
    proof, valid = merkle.Proof(tuple(siblings), case["directions"]), case["expect"]["valid"]
    assert merkle.verify(root, leaf, proof) is valid
    node = sha256(b"\x00" + leaf).digest()
    for bit, sibling in enumerate(siblings):
        pair = sibling + node if case["directions"] >> bit & 1 else node + sibling
        node = sha256(b"\x01" + pair).digest()
    formed = len(siblings) <= 64 and not case["directions"] >> len(siblings) and {*map(len, siblings)} <= {32}
    assert (formed and node == root) is valid


# --- reconciliation


def run_fingerprint(file: Json, case: Json) -> None:
    held = items(case["numbers"])
    total = sum(int.from_bytes(shake_256(one).digest(128), "big") for one in held) % 2**1024
    value = sha256(total.to_bytes(128, "big") + len(held).to_bytes(8, "big")).hexdigest()[:32]
    assert ItemSet(held).fingerprint(0, len(held)).hex() == case["expect"]["fingerprint"] == value


def run_exchange(file: Json, case: Json) -> None:
    limits = replace(Limits(), reconcile_message_bytes=case["message_bytes"])
    ours, theirs = items(case["a"]), items(case["b"])
    one, other = Reconciler(ours, limits), Reconciler(theirs, limits)
    question: bytes | None = one.initiate()
    have: list[str] = []
    need: list[str] = []
    for trip in case["trips"]:
        assert question is not None
        assert question.hex() == trip["question"]
        answer = other.respond(question)
        assert answer.hex() == trip["answer"]
        assert max(len(question), len(answer)) <= case["message_bytes"]
        assert isinstance(cbor2.loads(answer), list)
        step = one.receive(answer)
        assert [id_.hex() for id_ in step.have] == trip["have"]
        assert [id_.hex() for id_ in step.need] == trip["need"]
        have, need, question = have + trip["have"], need + trip["need"], step.message
    assert question is None
    expect = case["expect"]
    assert sorted(have) == expect["a_lacks"] == sorted(one[-32:].hex() for one in theirs - ours)
    assert sorted(need) == expect["b_lacks"] == sorted(one[-32:].hex() for one in ours - theirs)


def run_refused_message(file: Json, case: Json) -> None:
    side, message = Reconciler(items(file["numbers"]), Limits()), octets(case["message"])
    side.initiate()
    with pytest.raises(ReconcileError):
        _ = side.respond(message) if case["to_question"] else side.receive(message)


# --- reputation


def run_scores(file: Json, case: Json) -> None:
    names = Names(file)
    standings = [
        RoundStanding(
            one["round"],
            {names.keys[who]: Outcome[what.upper()] for who, what in one["outcomes"].items()},
            {names.keys[who]: AuditorStatus[what.upper()] for who, what in one["auditors"].items()},
        )
        for one in case["standings"]
    ]
    for order in (standings, standings[::-1]):
        found = reputations(case["round"], order)
        assert {
            names.names[key]: {"good": known.good, "bad": known.bad, "score": known.score}
            for key, known in found.items()
        } == case["expect"]


def run_rates(file: Json, case: Json) -> None:
    said = case["reputation"]
    known = Reputation(said["good"], said["bad"])
    rules = AuditRules(audit_rate=case["audit_rate"], reputation_floor=case["reputation_floor"])
    assert known.score == said["score"]
    assert {"audited": audit_rate(known, rules), "tickets": tickets(known.score)} == case["expect"]


def run_anchor(file: Json, case: Json) -> None:
    said = case["anchored"]
    root = octets(said["list_root"]) if said["list_root"] else None
    anchored = AnchoredRound(
        said["round"], said["attempt"], bytes(32), 0, bytes(32), list_root=root, rejected=said["rejected"]
    )
    counts = counts_in(anchored, case["round"], terms_in(file, case).clock)
    assert counts is case["expect"]["counts"]


# --- the files


class Watched(dict[str, Any]):
    """A case that knows which of its fields were looked at."""

    def __init__(self, case: Json) -> None:
        super().__init__(case)
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        return super().get(name, default)


RUN: Mapping[str, Callable[[Json, Json], None]] = {
    "admission/windows": run_admission,
    "admission/ballots": run_admission,
    "admission/sealed": run_admission,
    "admission/accusations": run_admission,
    "admission/notices": run_admission,
    "admission/seats": run_admission,
    "assignments/clock": run_clock,
    "assignments/rosters": run_roster,
    "assignments/beacons": run_beacon,
    "assignments/rules": run_rules,
    "assignments/draws": run_draw,
    "assignments/choices": run_choice,
    "tallies/first-ballots": run_tally,
    "tallies/full-audits": run_tally,
    "tallies/profiles": run_tally,
    "commitments/commitments": run_commitment,
    "commitments/misplaced": run_misplaced,
    "commitments/malformed": run_malformed,
    "lists/lists": run_list,
    "proofs/trees": run_tree,
    "proofs/proofs": run_proof,
    "reconciliation/fingerprints": run_fingerprint,
    "reconciliation/exchanges": run_exchange,
    "reconciliation/refused": run_refused_message,
    "reputation/scores": run_scores,
    "reputation/rates": run_rates,
    "reputation/anchors": run_anchor,
}

CASES = [
    pytest.param(name, case, id=f"{name}: {case['name']}")
    for name in RUN
    for case in read(FOLDER / f"{name}.json")["cases"]
]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_vector(name: str, case: Json) -> None:
    watched = Watched(case)
    RUN[name](read(FOLDER / f"{name}.json"), watched)
    assert case["why"]
    assert case.keys() - watched.seen == {"name", "why"}, "the runner has to look at every field"


def test_every_file_and_every_case_is_used() -> None:
    there = {path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("*/*")}
    assert {path for path in there if path.split("/")[0] not in OTHERS} == {f"{name}.json" for name in RUN}
    for name in RUN:
        file = read(FOLDER / f"{name}.json")
        assert file["cases"]
        assert file["about"]
        names = [case["name"] for case in file["cases"]]
        assert len(set(names)) == len(names)


def test_everything_that_is_shared_is_used() -> None:
    for name in RUN:
        file = read(FOLDER / f"{name}.json")
        cases = json.dumps(file["cases"])
        for kind in {"records", "rosters", "terms"} & file.keys():
            assert [one for one in file[kind] if json.dumps(one) not in cases] == [], name


def test_every_reason_outcome_standing_and_rule_occurs() -> None:
    def said(folder: str) -> str:
        return "".join(json.dumps(read(FOLDER / f"{name}.json")) for name in RUN if name.startswith(folder))

    # Only presences belong to no window, and those of this task never come to that rule.
    assert {reason for reason in Reason if f'"{reason.value}"' not in said("admission")} == {
        Reason.UNSPOKEN_KIND
    }
    for member in (*Outcome, *AuditorStatus, *Verdict, *Profile, *Weights):
        assert f'"{member.name.lower()}"' in said("tallies"), member
    for member in (*Outcome, *AuditorStatus):
        assert f'"{member.name.lower()}"' in said("reputation"), member
    for source in Source:
        assert f'"source": "{source.value}"' in said("admission")


def test_the_script_writes_the_same_bytes(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "make_round_vectors.py"), "--check"]
    subprocess.run(script, check=True, timeout=120)
    stale = subprocess.run(
        [*script, "--output", str(tmp_path)], capture_output=True, timeout=120, check=False
    )
    assert stale.returncode == 1
    assert b"windows.json" in stale.stderr
