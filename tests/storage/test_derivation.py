from __future__ import annotations

import hashlib
import hmac
import struct
import unicodedata

import base58
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from koii_p2p.errors import ConfigurationError
from koii_p2p.storage.derivation import STAKING_PATH, WALLET_PATH, checked_words, derived_key, new_words

ABOUT = "abandon " * 11 + "about"
ART = "abandon " * 23 + "art"
LEGAL = "legal winner thank year wave sausage worth useful legal winner thank yellow"


def seed_by_hand(words: str, passphrase: str) -> bytes:
    """BIP-39, "From mnemonic to seed", by the standard library alone."""
    salt = "mnemonic" + unicodedata.normalize("NFKD", passphrase)
    return hashlib.pbkdf2_hmac("sha512", words.encode(), salt.encode(), 2048)


def key_by_hand(seed: bytes, path: str) -> bytes:
    """SLIP-10 for ed25519, by the standard library alone: the secret seed at a path of hardened steps."""
    node = hmac.new(b"ed25519 seed", seed, hashlib.sha512).digest()
    for step in path.split("/")[1:]:
        assert step.endswith("'")
        data = b"\0" + node[:32] + struct.pack(">I", int(step[:-1]) | 1 << 31)
        node = hmac.new(node[32:], data, hashlib.sha512).digest()
    return node[:32]


@pytest.mark.parametrize(
    ("path", "secret", "public"),
    [
        (
            "m",
            "2b4be7f19ee27bbf30c667b642d5f4aa69fd169872f8fc3059c08ebae2eb19e7",
            "a4b2856bfec510abab89753fac1ac0e1112364e7d250545963f135f2a33188ed",
        ),
        (
            "m/0'",
            "68e0fe46dfb67e368c75379acec591dad19df3cde26e63b93a8e704f1dade7a3",
            "8c8a13df77a28f3445213a0f432fde644acaa215fc72dcdf300d5efaa85d350c",
        ),
        (
            "m/0'/1'/2'/2'/1000000000'",
            "8f94d394a8e8fd6b1bc2f3f49f5c47e385281d5c17e65324b0f62483e37e8793",
            "3c24da049451555d51a7014a37337aa4e12d41e485abccfa46b47dfb2af54b7a",
        ),
    ],
)
def test_the_reference_in_this_file_is_slip_10(path: str, secret: str, public: str) -> None:
    """SLIP-0010, test vector 1 for ed25519."""
    found = key_by_hand(bytes(range(16)), path)
    assert found.hex() == secret
    assert bytes(SigningKey(found).verify_key).hex() == public


@pytest.mark.parametrize(
    ("words", "passphrase", "seed"),
    [
        (
            ABOUT,
            "TREZOR",
            "c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e5349553"
            "1f09a6987599d18264c1e1c92f2cf141630c7a3c4ab7c81b2f001698e7463b04",
        ),
        (
            LEGAL,
            "TREZOR",
            "2e8905819b8723fe2c1d161860e5ee1830318dbf49a83bd451cfb8440c28bd6f"
            "a457fe1296106559a3c80937a1c1069be3a3a5bd381ee6260e8d9739fce1f607",
        ),
        (
            ART,
            "TREZOR",
            "bda85446c68413707090a52022edd26a1c9462295029f2e60cd7c4f2bbd30971"
            "70af7a4d73245cafa9c3cca8d561a7c3de6f5d4a10be8ed2a5e608d68f92fcc8",
        ),
        (
            ABOUT,
            "",
            "5eb00bbddcf069084889a8ab9155568165f5c453ccb85e70811aaed6f6da5fc1"
            "9a5ac40b389cd370d086206dec8aa6c43daea6690f20ad3d8d48b2d2ce9e38e4",
        ),
    ],
)
def test_the_reference_in_this_file_is_bip_39(words: str, passphrase: str, seed: str) -> None:
    """The vectors that BIP-39 names (trezor/python-mnemonic, vectors.json), and the usual one without passphrase."""
    assert seed_by_hand(words, passphrase).hex() == seed


@pytest.mark.parametrize(
    ("path", "address"),
    [
        (WALLET_PATH, "GjJyeC1r2RgkuoCWMyPYkCWSGSGLcz266EaAkLA27AhL"),
        ("m/44'/501'/0'/0'", "HAgk14JpMQLgt6rVgv7cBQFJWFto5Dqxi472uT3DKpqk"),
    ],
)
def test_addresses_that_other_wallets_have_for_the_same_words(path: str, address: str) -> None:
    """Bip44 and Bip44Change addresses of the well-known words, as published by many Solana wallets' tests."""
    key = derived_key(ABOUT, path)
    assert base58.b58encode(key.public_key).decode() == address


def test_koiis_paths_are_koiis() -> None:
    assert (WALLET_PATH, STAKING_PATH) == ("m/44'/501'/0'", "m/44'/501'/99'/0'")
    assert derived_key(ABOUT, WALLET_PATH).public_key != derived_key(ABOUT, STAKING_PATH).public_key


@settings(max_examples=20)
@given(
    st.sampled_from([ABOUT, ART, LEGAL]), st.text(max_size=20), st.sampled_from([WALLET_PATH, STAKING_PATH])
)
def test_keys_are_those_of_the_reference(words: str, passphrase: str, path: str) -> None:
    expected = key_by_hand(seed_by_hand(words, passphrase), path)
    found = derived_key(words, path, passphrase)
    assert found.seed == expected
    assert found.public_key == bytes(SigningKey(expected).verify_key)


@pytest.mark.parametrize("count", [12, 24])
def test_new_words_are_many_are_different_and_are_right(count: int) -> None:
    drawn = {new_words(count) for _ in range(20)}
    assert len(drawn) == 20
    for words in drawn:
        assert len(words.split()) == count
        assert checked_words(words) == words


def test_case_and_space_do_not_matter() -> None:
    assert checked_words(f"  {LEGAL.upper()}\n".replace(" ", " \t\n ")) == LEGAL


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("", "There are 0 of them"),
        ("abandon " * 11, "There are 11 of them"),
        ("abandon " * 15, "There are 15 of them"),
        ("abandon " * 12, "checksum is wrong"),
        (LEGAL.replace("winner thank", "thank winner", 1), "checksum is wrong"),
        (LEGAL.replace("wave", "wafe").replace("yellow", "yelow"), "in place 5, 12 is not a word"),
        ("x" * 2000, "more than 1024 characters"),
    ],
)
def test_words_that_are_none_are_refused_and_not_repeated(words: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        checked_words(words)
    told = str(caught.value)
    assert why in told
    assert not [word for word in ("abandon", "winner", "wafe", "yelow", "xxx") if word in told]
