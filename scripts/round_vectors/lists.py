"""Vectors of distribution lists, and of Merkle trees and proofs. Amounts and totals are written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from koii_p2p.rounds import merkle
from koii_p2p.rounds.audit_rules import Weights
from koii_p2p.rounds.distribution import DistributionList, Leaf
from koii_p2p.rounds.roster import Roster, RosterEntry
from koii_p2p.rounds.terms import TaskTerms
from round_vectors.world import (
    HARDENED,
    ROUND,
    SIGNERS,
    Json,
    VectorFile,
    digest,
    roster_json,
)

SMALL: Final = replace(HARDENED, name="small", bounty_per_round=100, minimum_stake=1000)
SHARED: Final = replace(SMALL, name="finders", audit=replace(SMALL.audit, finders_share=5000))
Pairs = Mapping[str, tuple[int, int]]
"""Reward and slash totals by name."""

KEYS: Final = [one.public_key for one in SIGNERS[:7]]


def _key(name: str) -> bytes:
    return KEYS[int(name[1:])]


def _list(number: int, totals: Pairs) -> DistributionList:
    return DistributionList(number, tuple(Leaf(_key(who), *totals[who]) for who in sorted(totals)))


def _totals(totals: Pairs) -> Json:
    return {who: {"reward": str(reward), "slash": str(slash)} for who, (reward, slash) in totals.items()}


def lists() -> VectorFile:
    """Lists of round 3."""
    file = VectorFile(
        "What a list of round 3 comes to. `amounts` are the task's (a negative one is a slash), Koii's default where "
        "they are null; `default` is what that gives. Leaves are cumulative. All amounts in Roe."
    )
    file.name_keys(KEYS)

    def case(
        name: str,
        why: str,
        outcomes: Mapping[str, str],
        expect: Pairs | None,
        *,
        stakes: Sequence[int] = (1000, 2000, 3001),
        settled: Sequence[int] = (),
        previous: Pairs | None = None,
        previous_round: int = 2,
        amounts: Mapping[str, int] | None = None,
        default: Mapping[str, int] | None = None,
        convicted: Sequence[str] = (),
        finders: Mapping[str, tuple[Sequence[str], Sequence[str]]] | None = None,
        terms: TaskTerms = SMALL,
    ) -> None:
        taken = (*settled, *(0 for _ in stakes))
        entries = (
            RosterEntry(KEYS[i], stake, taken[i], digest(f"wallet {i}"), stake)
            for i, stake in enumerate(stakes)
        )
        roster = Roster(ROUND, tuple(entries), Weights.STAKE)
        shared = file.share(
            "rosters", f"{' '.join(map(str, stakes))} / {' '.join(map(str, settled))}", roster_json(roster)
        )
        listed: Json = {"refused": True}
        if expect is not None:
            made = _list(ROUND, expect)
            listed = {
                "leaves": _totals(expect),
                "root": made.root.hex(),
                "reward_total": str(sum(reward for reward, _ in expect.values())),
                "slash_total": str(sum(slash for _, slash in expect.values())),
                "cid": made.cid.hex(),
                "bytes": made.encode().hex(),
            }
        file.case(
            name,
            why,
            terms=file.terms(terms),
            roster=shared,
            previous=None if previous is None else {"round": previous_round, "leaves": _totals(previous)},
            outcomes=dict(outcomes),
            convicted=list(convicted),
            finders={
                who: {"accusers": list(accusers), "voters": list(voters)}
                for who, (accusers, voters) in (finders or {}).items()
            },
            amounts=None if amounts is None else {who: str(amount) for who, amount in amounts.items()},
            default=None if default is None else {who: str(amount) for who, amount in default.items()},
            expect=listed,
        )

    all_good = {"n00": "approved", "n01": "approved", "n02": "approved"}
    case(
        "three approved",
        "100 // 3 each; the remainder stays in the vault.",
        all_good,
        {"n00": (33, 0), "n01": (33, 0), "n02": (33, 0)},
        default={"n00": 33, "n01": 33, "n02": 33},
    )
    case(
        "every outcome",
        "Only the approved earn, only the rejected lose: 3001 * 7000 // 10000 is 2100.",
        {
            "n00": "approved",
            "n01": "undecided",
            "n02": "rejected",
            "n03": "unavailable",
            "n04": "canary",
            "n05": "approved",
        },
        {"n00": (50, 0), "n01": (0, 0), "n02": (0, 2100), "n03": (0, 0), "n04": (0, 0), "n05": (50, 0)},
        stakes=(1000, 2000, 3001, 1000, 1000, 1000),
        default={"n00": 50, "n01": 0, "n02": -2100, "n03": 0, "n04": 0, "n05": 50},
    )
    case(
        "a stake of 1009",
        "1009 * 7000 // 10000 is 706: rounded down.",
        {"n00": "rejected"},
        {"n00": (0, 706)},
        stakes=(1009,),
        default={"n00": -706},
    )
    case(
        "nobody submits",
        "The roster is on the list all the same.",
        {},
        {f"n0{i}": (0, 0) for i in range(3)},
        default={},
    )
    case("nobody at all", "An empty list has the root of no leaves.", {}, {}, stakes=(), default={})
    case(
        "after another list",
        "Totals only grow. n03 is no staker any more, and keeps its leaf.",
        {"n00": "approved", "n02": "rejected"},
        {"n00": (140, 5), "n01": (7, 0), "n02": (0, 2100), "n03": (9, 11)},
        previous={"n00": (40, 5), "n01": (7, 0), "n03": (9, 11)},
        settled=(5,),
        default={"n00": 100, "n02": -2100},
    )
    case(
        "a slash that is not taken yet",
        "2000 less 500 in flight is 1500: 1050 are lost, not 1400.",
        {"n01": "rejected"},
        {"n00": (0, 0), "n01": (0, 1550), "n02": (0, 0)},
        previous={"n01": (0, 500)},
        default={"n01": -1050},
    )
    case(
        "a slash that K2 has taken",
        "2000 is what is left; nothing is in flight.",
        {"n01": "rejected"},
        {"n00": (0, 0), "n01": (0, 1900), "n02": (0, 0)},
        previous={"n01": (0, 500)},
        settled=(0, 500),
        default={"n01": -1400},
    )
    case(
        "a stake that is lost already",
        "600 of 2000 are left, below the minimum: not slashed again, and not paid for n00's part either.",
        {"n00": "approved", "n01": "rejected"},
        {"n00": (100, 0), "n01": (0, 1400), "n02": (0, 0)},
        previous={"n01": (0, 1400)},
        default={"n00": 100, "n01": -420},
    )
    case(
        "not paid below the minimum",
        "The default gives n01 its 50; the list does not.",
        {"n00": "approved", "n01": "approved"},
        {"n00": (50, 0), "n01": (0, 1400), "n02": (0, 0)},
        previous={"n01": (0, 1400)},
        default={"n00": 50, "n01": 50},
    )
    case(
        "a list that slashed more than there is",
        "A lie that was anchored: nothing is left, and nothing becomes negative.",
        {"n01": "rejected"},
        {"n00": (0, 0), "n01": (0, 9000), "n02": (0, 0)},
        previous={"n01": (0, 9000)},
        default={"n01": 0},
    )
    case(
        "a list that forgot a slash",
        "K2 has taken more than was listed: the stake is what it is.",
        {"n01": "rejected"},
        {"n00": (0, 0), "n01": (0, 1400), "n02": (0, 0)},
        previous={"n01": (0, 0)},
        settled=(0, 500),
        default={"n01": -1400},
    )
    case(
        "an equivocator",
        "Loses 70 % as a rejected one, and earns nothing; the others share by the default.",
        {"n00": "equivocated", "n01": "approved"},
        {"n00": (0, 700), "n01": (100, 0), "n02": (0, 0)},
        convicted=["n00"],
        default={"n00": 0, "n01": 100},
    )
    case(
        "an auditor convicted",
        "Its good work earns nothing: 50 of the bounty stay in the vault.",
        {"n00": "approved", "n01": "approved"},
        {"n00": (50, 0), "n01": (0, 1400), "n02": (0, 0)},
        convicted=["n01"],
        default={"n00": 50, "n01": 50},
    )
    case(
        "rejected and convicted",
        "One stake, one slash: the greater of the task's and the default's.",
        {"n01": "equivocated"},
        {"n00": (0, 0), "n01": (0, 1800), "n02": (0, 0)},
        convicted=["n01"],
        amounts={"n01": -1800},
    )
    case(
        "amounts of the task's own",
        "Whatever the outcomes. A slash is never more than the stake.",
        {"n00": "rejected"},
        {"n00": (60, 0), "n01": (40, 0), "n02": (0, 3001)},
        amounts={"n00": 60, "n01": 40, "n02": -5000},
    )
    case("rewards above the bounty", "101 of 100.", all_good, None, amounts={"n00": 60, "n01": 41})
    case("somebody else is paid", "n05 is not in the roster.", all_good, None, amounts={"n05": 1})
    case(
        "the previous list is not earlier",
        "Round 3 after round 3.",
        all_good,
        None,
        previous={"n00": (1, 0)},
        previous_round=3,
    )
    case(
        "a total beyond 64 bits",
        "2**64 - 1 and 33.",
        all_good,
        None,
        previous={"n00": (2**64 - 1, 0)},
    )
    found = {"n00": "rejected"}
    five = (10_000, 1000, 1000, 1000, 1000)
    case(
        "finders",
        "Half of the 7000 slashed: 1750 for the accuser, 1750 // 3 for each who confirmed it.",
        found,
        {"n00": (0, 7000), "n01": (1750, 0), "n02": (583, 0), "n03": (583, 0), "n04": (583, 0)},
        stakes=five,
        finders={"n00": (["n01"], ["n02", "n03", "n04"])},
        terms=SHARED,
        default={"n00": -7000},
    )
    case(
        "finders of one side",
        "Nobody voted in the full audit but those who accused: all 3500 are theirs, 1166 each.",
        found,
        {"n00": (0, 7000), "n01": (1166, 0), "n02": (1166, 0), "n03": (1166, 0), "n04": (0, 0)},
        stakes=five,
        finders={"n00": (["n01", "n02", "n03"], [])},
        terms=SHARED,
        default={"n00": -7000},
    )
    case(
        "finders without a share",
        "Where the task gives none, the slash stays in the vault.",
        found,
        {"n00": (0, 7000)} | {f"n0{i}": (0, 0) for i in range(1, 5)},
        stakes=five,
        finders={"n00": (["n01"], ["n02", "n03", "n04"])},
        default={"n00": -7000},
    )
    case(
        "a finder convicted",
        "Its part, 1750, stays in the vault, and it is slashed.",
        found,
        {"n00": (0, 7000), "n01": (0, 700), "n02": (583, 0), "n03": (583, 0), "n04": (583, 0)},
        stakes=five,
        finders={"n00": (["n01"], ["n02", "n03", "n04"])},
        convicted=["n01"],
        terms=SHARED,
        default={"n00": -7000},
    )
    case(
        "finders of a stake that is lost already",
        "Nothing is slashed, so there is nothing to share.",
        found,
        {"n00": (0, 9500)} | {f"n0{i}": (0, 0) for i in range(1, 5)},
        stakes=five,
        previous={"n00": (0, 9500)},
        finders={"n00": (["n01"], ["n02", "n03", "n04"])},
        terms=SHARED,
        default={"n00": -350},
    )
    return file


RFC_LEAVES: Final = (
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
)
RFC_ROOTS: Final = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
"""Leaves and roots that the reference implementations of Certificate Transparency are tested with."""


def trees() -> VectorFile:
    """Trees and the path of every leaf."""
    file = VectorFile(
        "RFC 6962 section 2.1 trees: leaves in order, root, and for each leaf its siblings from the leaf up. Bit i of "
        "`directions`: sibling i is on the left. Leaves and roots are those of Certificate Transparency's own tests."
    )
    for size, root in enumerate(RFC_ROOTS):
        leaves = [bytes.fromhex(leaf) for leaf in RFC_LEAVES[:size]]
        paths = [
            {"siblings": [sibling.hex() for sibling in proof.siblings], "directions": proof.directions}
            for proof in merkle.all_proofs(leaves)
        ]
        file.case(
            f"{size} leaves",
            "An odd last node is carried up unchanged.",
            leaves=[leaf.hex() for leaf in leaves],
            expect={"root": root, "paths": paths},
        )
    return file


def proofs() -> VectorFile:
    """Right and wrong proofs of leaves of a list."""
    file = VectorFile(
        "Does a path lead from a leaf to a root? A leaf has 48 bytes: key, reward and slash total (u64, little-endian)."
    )
    made = _list(ROUND, {f"n0{i}": (100 + i, 2 * i) for i in range(6)})

    def case(name: str, why: str, leaf: bytes, proof: merkle.Proof, root: bytes, valid: bool) -> None:
        file.case(
            name,
            why,
            leaf=leaf.hex(),
            siblings=[sibling.hex() for sibling in proof.siblings],
            directions=proof.directions,
            root=root.hex(),
            expect={"valid": valid},
        )

    leaves = [leaf.encode() for leaf in made.leaves]
    paths, root = merkle.all_proofs(leaves), made.root
    for index, path in enumerate(paths):
        case(f"leaf {index} of six", f"A path of {len(path.siblings)}.", leaves[index], path, root, True)
    path = paths[4]
    case("another's path", "Leaf 5 with the path of leaf 4.", leaves[5], path, root, False)
    case("a greater reward", "One Roe more.", Leaf(KEYS[4], 105, 8).encode(), path, root, False)
    case("totals swapped", "8 and 104.", Leaf(KEYS[4], 8, 104).encode(), path, root, False)
    case("another root", "That of another list.", leaves[4], path, digest("another list"), False)
    case(
        "a side swapped",
        "The sibling on the other side.",
        leaves[4],
        replace(path, directions=0),
        root,
        False,
    )
    case(
        "a bit too many",
        "A direction without a sibling.",
        leaves[4],
        replace(path, directions=path.directions | 4),
        root,
        False,
    )
    case(
        "a path too short",
        "It ends at an inner node.",
        leaves[4],
        merkle.Proof(path.siblings[:1], 0),
        root,
        False,
    )
    case(
        "a path too long",
        "It goes on above the root.",
        leaves[4],
        merkle.Proof((*path.siblings, root), path.directions),
        root,
        False,
    )
    short = merkle.Proof((path.siblings[0][:31], path.siblings[1]), path.directions)
    case("a sibling of 31 bytes", "Hashes have 32.", leaves[4], short, root, False)
    inner = merkle.leaf_hash(leaves[0]) + merkle.leaf_hash(leaves[1])
    case(
        "an inner node as a leaf",
        "Leaves and nodes are hashed in domains of their own.",
        inner,
        merkle.Proof(paths[0].siblings[1:], paths[0].directions >> 1),
        root,
        False,
    )
    one = _list(ROUND, {"n00": (1, 0)})
    case(
        "the only leaf",
        "The root is its hash; the path is empty.",
        one.leaves[0].encode(),
        merkle.Proof((), 0),
        one.root,
        True,
    )
    case("no tree", "The empty root has no leaf.", leaves[0], merkle.Proof((), 0), merkle.EMPTY_ROOT, False)
    last = merkle.Proof((bytes(32),) * 65, 0)
    above = leaves[0]
    node = merkle.leaf_hash(above)
    for sibling in last.siblings:
        node = merkle.node_hash(node, sibling)
    case("65 siblings", "It fits, and is longer than any honest path.", above, last, node, False)
    return file


LIST_FILES: Final[dict[str, Callable[[], VectorFile]]] = {"lists": lists}
PROOF_FILES: Final[dict[str, Callable[[], VectorFile]]] = {"trees": trees, "proofs": proofs}
