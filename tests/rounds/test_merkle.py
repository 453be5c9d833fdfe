from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree, verify_inclusion

from koii_p2p.rounds import merkle

leaf_lists = st.lists(st.binary(max_size=40), min_size=1, max_size=70)


def oracle(leaves: list[bytes]) -> InmemoryTree:
    """An independent RFC 6962 tree."""
    tree = InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        tree.append_entry(leaf)
    return tree


def test_the_empty_tree_and_the_vectors_of_certificate_transparency() -> None:
    # RFC 6962 test data of Google's certificate-transparency project: 8 leaves.
    leaves = [
        bytes.fromhex(text)
        for text in (
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        )
    ]
    assert merkle.root([]) == sha256(b"").digest()
    assert merkle.root(leaves[:1]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert merkle.root(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@given(leaf_lists)
def test_root_and_paths_equal_those_of_pymerkle(leaves: list[bytes]) -> None:
    tree = oracle(leaves)
    root = merkle.root(leaves)
    for index, leaf in enumerate(leaves):
        theirs = tree.prove_inclusion(index + 1)
        verify_inclusion(merkle.leaf_hash(leaf), root, theirs)
        assert merkle.prove(leaves, index).siblings == tuple(theirs.path[1:])


@given(leaf_lists)
def test_every_proof_verifies_and_all_proofs_are_the_single_ones(leaves: list[bytes]) -> None:
    root = merkle.root(leaves)
    proofs = merkle.all_proofs(leaves)
    assert proofs == tuple(merkle.prove(leaves, index) for index in range(len(leaves)))
    assert all(merkle.verify(root, leaf, proof) for leaf, proof in zip(leaves, proofs, strict=True))


@given(leaf_lists, st.data())
def test_nothing_else_verifies(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    root, leaf, proof = merkle.root(leaves), leaves[index], merkle.prove(leaves, index)
    assert not merkle.verify(root, leaf + b"x", proof)
    assert not merkle.verify(sha256(root).digest(), leaf, proof)
    assert not merkle.verify(root, leaf, merkle.Proof((*proof.siblings, bytes(32)), proof.directions))
    assert not merkle.verify(
        root, leaf, replace(proof, directions=proof.directions | 1 << len(proof.siblings))
    )
    for height, sibling in enumerate(proof.siblings):
        flipped = bytes([sibling[0] ^ 1]) + sibling[1:]
        siblings = (*proof.siblings[:height], flipped, *proof.siblings[height + 1 :])
        assert not merkle.verify(root, leaf, replace(proof, siblings=siblings))


def test_an_inner_node_is_no_leaf() -> None:
    leaves = [b"a", b"b", b"c", b"d"]
    inner = merkle.leaf_hash(b"a") + merkle.leaf_hash(b"b")
    upper = merkle.prove(leaves, 0).siblings[1:]
    assert not merkle.verify(merkle.root(leaves), inner, merkle.Proof(upper, 0))


def test_malformed_proofs_are_false_not_errors() -> None:
    root = merkle.root([b"a"])
    assert merkle.verify(root, b"a", merkle.Proof((), 0))
    assert not merkle.verify(root, b"a", merkle.Proof((), -1))
    assert not merkle.verify(root, b"a", merkle.Proof((b"short",), 0))
    assert not merkle.verify(root, b"a", merkle.Proof((bytes(32),) * 65, 0))


@pytest.mark.parametrize("index", [-1, 2])
def test_no_proof_for_a_leaf_that_is_not_there(index: int) -> None:
    with pytest.raises(IndexError):
        merkle.prove([b"a", b"b"], index)
