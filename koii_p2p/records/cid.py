"""Content identifiers: CIDv1 of raw bytes with SHA-256 (github.com/multiformats/cid), binary and text."""

from __future__ import annotations

import base64
import binascii
import hashlib

CID_BYTES = 36
CID_PREFIX = bytes((0x01, 0x55, 0x12, 0x20))  # CIDv1, codec raw, multihash sha2-256, 32 bytes
DIGEST_BYTES = 32


class CidError(ValueError):
    """Bytes or text that are not a CIDv1 of raw bytes with SHA-256."""


def cid_of(data: bytes) -> bytes:
    """Return the 36-byte CID of `data`."""
    return CID_PREFIX + hashlib.sha256(data).digest()


def cid_of_digest(digest: bytes) -> bytes:
    """Return the 36-byte CID of the content whose SHA-256 is `digest` (32 bytes). Raises `CidError`."""
    if len(digest) != DIGEST_BYTES:
        raise CidError(f"A SHA-256 digest has {DIGEST_BYTES} bytes, not {len(digest)}.")
    return CID_PREFIX + digest


def is_cid(cid: bytes) -> bool:
    """Tell whether `cid` is a binary CID of the one form used here."""
    return len(cid) == CID_BYTES and cid.startswith(CID_PREFIX)


def digest_of(cid: bytes) -> bytes:
    """Return the 32-byte SHA-256 digest inside a binary CID. Raises `CidError`."""
    if not is_cid(cid):
        raise CidError("Not a binary CIDv1 of raw bytes with SHA-256.")
    return cid[len(CID_PREFIX) :]


def cid_to_text(cid: bytes) -> str:
    """Return the text form: `b` and lower-case base32 without padding, 59 characters. Raises `CidError`."""
    digest_of(cid)
    return "b" + base64.b32encode(cid).decode("ascii").rstrip("=").lower()


def cid_from_text(text: str) -> bytes:
    """Return the binary CID of a text form, in the one spelling of `cid_to_text`. Raises `CidError`."""
    if not text.startswith("b") or len(text) != 59:
        raise CidError("A CID in text is 'b' and 58 lower-case base32 characters.")
    try:
        cid = base64.b32decode(text[1:].upper() + "=" * (-(len(text) - 1) % 8))
    except (binascii.Error, ValueError) as error:
        raise CidError("Not base32.") from error
    if cid_to_text(cid) != text:
        raise CidError("Not the one spelling of this CID.")
    return cid
