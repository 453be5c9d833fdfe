"""Ed25519 secret keys, as Solana and K2 keep them."""

from __future__ import annotations

from typing import Never

from nacl.signing import SigningKey

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


class SecretKey:
    """An ed25519 secret key that signs and never shows itself: not in `repr`, not in a pickle."""

    __slots__ = ("_key", "_public_key")

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self._public_key = bytes(key.verify_key)

    @classmethod
    def from_seed(cls, seed: bytes) -> SecretKey:
        """Make the key of a 32-byte seed (RFC 8032 section 5.1.5). Raises `ValueError` for another length."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"A seed has {SEED_BYTES} bytes, not {len(seed)}.")
        return cls(SigningKey(seed))

    @classmethod
    def from_solana_bytes(cls, data: bytes) -> SecretKey:
        """Make the key of Solana's 64 bytes, seed and public key. Raises `ValueError` if they disagree."""
        if len(data) != SEED_BYTES + PUBLIC_KEY_BYTES:
            raise ValueError(f"A keypair has {SEED_BYTES + PUBLIC_KEY_BYTES} bytes, not {len(data)}.")
        key = cls.from_seed(data[:SEED_BYTES])
        if key.public_key != data[SEED_BYTES:]:
            raise ValueError("The public half does not belong to the secret half.")
        return key

    @classmethod
    def generate(cls) -> SecretKey:
        """Make a new key from the operating system's randomness."""
        return cls(SigningKey.generate())

    @property
    def public_key(self) -> bytes:
        """The 32-byte public key: the name of its owner in records and rosters."""
        return self._public_key

    @property
    def seed(self) -> bytes:
        """The 32-byte secret seed."""
        return bytes(self._key)

    @property
    def solana_bytes(self) -> bytes:
        """The 64 secret bytes of a Solana keypair: seed, then public key."""
        return self.seed + self._public_key

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte ed25519 signature of `message`; deterministic (RFC 8032)."""
        return self._key.sign(message).signature

    def __repr__(self) -> str:
        return f"SecretKey(public_key={self._public_key.hex()})"

    def __reduce__(self) -> Never:
        raise TypeError("A secret key is not pickled.")
