"""Keys from recovery words: BIP-39 words to a seed, and Koii's derivation paths from there to keys.

Words and seeds pass through memory only: nothing here writes, prints or names them, not in an error either.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from mnemonic import Mnemonic
from solders.keypair import Keypair

from koii_p2p.errors import ConfigurationError
from koii_p2p.records.keys import SecretKey

WALLET_PATH: Final = "m/44'/501'/0'"
"""The main wallet's (koii-network/tools, `K2_DEFAULT_DERIVATION_PATH`, which the desktop node and Finnie use)."""

STAKING_PATH: Final = "m/44'/501'/99'/0'"
"""The staking key's (koii-node, `src/config/node.ts`, `STAKING_DERIVATION_PATH`)."""

WORD_COUNTS: Final = (12, 24)
MOST_CHARACTERS: Final = 1024

_BITS_IN_WORDS: Final = {12: 128, 24: 256}


def new_words(count: int) -> str:
    """New English words, 12 or 24, from the operating system's randomness. Raises KeyError for another count."""
    return Mnemonic("english").generate(_BITS_IN_WORDS[count])


def checked_words(text: str) -> str:
    """Words as BIP-39 writes them: English, one space apart, 12 or 24, with the right checksum.

    Case and white space are put right. Raises `ConfigurationError`, which names places and never words.
    """
    what = "These recovery words cannot be used."
    if len(text) > MOST_CHARACTERS:
        raise ConfigurationError(
            what, f"They have more than {MOST_CHARACTERS} characters.", "Give the words alone."
        )
    words = unicodedata.normalize("NFKD", text).lower().split()
    if len(words) not in WORD_COUNTS:
        raise ConfigurationError(
            what,
            f"There are {len(words)} of them, and Koii's wallets have 12 or 24.",
            "Give all of them, in their order, with spaces between them.",
        )
    english = Mnemonic("english")
    listed = frozenset(english.wordlist)
    unknown = [str(place) for place, word in enumerate(words, 1) if word not in listed]
    if unknown:
        raise ConfigurationError(
            what,
            f"What is in place {', '.join(unknown)} is not a word of BIP-39's English list.",
            "Correct it: the first four letters tell every word of the list from the others.",
        )
    joined = " ".join(words)
    if not english.check(joined):
        raise ConfigurationError(
            what,
            "All are words of the list, but their checksum is wrong: one is another word, or two changed places.",
            "Compare each with what you have written down.",
        )
    return joined


def derived_key(words: str, path: str, passphrase: str = "") -> SecretKey:
    """The key of checked words at a path of hardened steps (BIP-39; SLIP-10 for ed25519).

    With a `passphrase` the same words give other keys; Koii's own wallets use none.
    """
    seed = Mnemonic.to_seed(words, passphrase)
    return SecretKey.from_seed(Keypair.from_seed_and_derivation_path(seed, path).secret())
