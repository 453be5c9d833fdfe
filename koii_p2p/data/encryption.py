"""Private blobs: each block closed with XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) under the key of its reference.

The nonce of a block is the blob's prefix, 16 random bytes in its manifest, and the block's number, 8 bytes big-endian:
one key may close any number of blobs, and blocks cannot be swapped within one. Whoever stores shards sees how many
bytes there are, and nothing else; not even that two private blobs are equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from nacl import bindings
from nacl.exceptions import CryptoError

from koii_p2p.data.reasons import DataError, DataReason

KEY_BYTES: Final = bindings.crypto_aead_xchacha20poly1305_ietf_KEYBYTES
PREFIX_BYTES: Final = 16
OVERHEAD_BYTES: Final = bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES
"""By how much a closed block is longer than what is in it."""

_DOMAIN: Final = b"koii-p2p/1 private block"


@dataclass(frozen=True, slots=True)
class BlockCipher:
    """Closes and opens the blocks of one blob. `prefix` must be drawn at random for every blob.

    Raises `DataError` for a key that is not 32 bytes or a prefix that is not 16.
    """

    key: bytes = field(repr=False)
    prefix: bytes

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES or len(self.prefix) != PREFIX_BYTES:
            raise DataError(
                DataReason.BAD_KEY,
                f"A key has {KEY_BYTES} bytes and a nonce prefix {PREFIX_BYTES}, not {len(self.key)} and "
                f"{len(self.prefix)}.",
            )

    def close(self, number: int, block: bytes) -> bytes:
        """The closed form of a block, 16 bytes longer."""
        return bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            block, _DOMAIN, self._nonce(number), self.key
        )

    def open(self, number: int, closed: bytes) -> bytes:
        """The block that was closed. Raises `DataError` when it was not closed with this key, prefix and number."""
        wrong = DataError(DataReason.WRONG_KEY, f"Block {number} was not closed with this key.")
        if len(closed) < OVERHEAD_BYTES:
            raise wrong  # which PyNaCl would call a negative array length
        try:
            return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                closed, _DOMAIN, self._nonce(number), self.key
            )
        except CryptoError as error:
            raise wrong from error

    def _nonce(self, number: int) -> bytes:
        return self.prefix + number.to_bytes(8, "big")
