"""The lab's sizes of transactions are those of the ones that nodes send."""

from __future__ import annotations

from hashlib import sha256

import pytest
from solders.compute_budget import set_compute_unit_limit
from solders.instruction import Instruction

from koii_p2p.lab import chain
from koii_p2p.lab.chain import Landed
from koii_p2p.lab.transactions import bytes_of, signatures_of
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds import merkle
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.settlement import instructions as encode
from koii_p2p.settlement.sending import keypair_of, signed

TASK, DIGEST, BENEFICIARY = (sha256(text).digest() for text in (b"task", b"digest", b"beneficiary"))
PAYER, STAKER, LISTER = (SecretKey.from_seed(bytes([number]) * 32) for number in (1, 2, 3))


def wire(instruction: Instruction, *signers: SecretKey) -> tuple[int, int]:
    """Bytes and signatures of the transaction that a node sends for an instruction."""
    sent = signed(
        (set_compute_unit_limit(400_000), instruction),
        keypair_of(PAYER),
        [keypair_of(one) for one in signers],
        DIGEST,
    )
    return len(sent), sent[0]


def settlement(stakers: int) -> tuple[int, int]:
    leaves = [Leaf(index.to_bytes(32, "big"), 1, 1) for index in range(stakers)]
    proof = merkle.prove([leaf.encode() for leaf in leaves], 0)
    return wire(encode.settle(TASK, 3, leaves[0], proof, BENEFICIARY))


@pytest.mark.parametrize(
    ("name", "instruction"),
    [
        (chain.COMMITMENT, encode.anchor_commitment(TASK, STAKER.public_key, 3, DIGEST)),
        (chain.LIST, encode.anchor_list(TASK, STAKER.public_key, 3, DIGEST, 10, 5)),
        (chain.VETO, encode.veto(TASK, STAKER.public_key, 3, 0, LISTER.public_key, BENEFICIARY)),
    ],
)
def test_anchors_and_vetoes(name: str, instruction: Instruction) -> None:
    landed = Landed(name, 3, 0, STAKER.public_key, 100)
    assert (bytes_of(landed, stakers=10), signatures_of(landed)) == wire(instruction, STAKER)


@pytest.mark.parametrize("stakers", [2, 5, 64, 65, 1000, 20_000])
def test_settlements_grow_with_the_proof(stakers: int) -> None:
    landed = Landed(chain.SETTLEMENT, 3, 0, STAKER.public_key, 100, leaves=3)
    size, signatures = settlement(stakers)
    assert bytes_of(landed, stakers=stakers) == 3 * size
    assert signatures_of(landed) == 3 * signatures
