from __future__ import annotations

import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.records.cid import CidError, cid_from_text, cid_of, cid_of_digest, cid_to_text, digest_of
from koii_p2p.records.keys import SecretKey


def test_a_key_is_as_rfc_8032_says() -> None:
    key = SecretKey.from_seed(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    assert key.public_key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
        "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )


def test_a_key_goes_to_solana_bytes_and_back() -> None:
    key = SecretKey.generate()
    assert SecretKey.from_solana_bytes(key.solana_bytes).public_key == key.public_key
    assert key.solana_bytes == key.seed + key.public_key
    assert SecretKey.generate().public_key != key.public_key


@pytest.mark.parametrize("data", [b"", bytes(63), bytes(64), bytes(65)])
def test_wrong_solana_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"bytes|half"):
        SecretKey.from_solana_bytes(data)


def test_a_key_does_not_show_itself() -> None:
    key = SecretKey.from_seed(b"secret seed of thirty-two bytes.")
    for text in (repr(key), str(key), f"{key}", repr([key])):
        assert key.public_key.hex() in text
        assert key.seed.hex() not in text
        assert "secret seed" not in text
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(ValueError, match="32 bytes"):
        SecretKey.from_seed(b"short")


@given(st.binary())
def test_a_cid_names_its_content(data: bytes) -> None:
    cid = cid_of(data)
    assert digest_of(cid) == hashlib.sha256(data).digest()
    assert cid_of_digest(digest_of(cid)) == cid
    assert cid_from_text(cid_to_text(cid)) == cid


def test_a_cid_is_written_as_ipfs_writes_it() -> None:
    # The CID of an empty raw block, as in many IPFS repositories.
    text = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    assert cid_to_text(cid_of(b"")) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyk",
        "BAFKREIHDWDCEFGH4DQKJV67UZCMW7OJEE6XEDZDETOJUZJEVTENXQUVYKU",
        "bAfkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvykv",  # bits beyond the last byte
        "bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",  # dag-pb
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyk1",
        "bé" + "a" * 57,
    ],
)
def test_other_texts_are_not_cids(text: str) -> None:
    with pytest.raises(CidError):
        cid_from_text(text)


def test_other_bytes_are_not_cids() -> None:
    for data in (b"", cid_of(b"")[:-1], cid_of(b"") + b"\x00", bytes(36)):
        with pytest.raises(CidError):
            digest_of(data)
    with pytest.raises(CidError):
        cid_of_digest(b"short")
