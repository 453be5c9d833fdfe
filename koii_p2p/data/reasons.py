"""Why data is refused: one enum member per rule, with what it means and whose doing it is."""

from __future__ import annotations

from koii_p2p.records.meanings import Meaning


class DataReason(Meaning):
    """Why a blob, manifest, shard or reference is refused. The value is the portable name for counters and tests."""

    # what the caller asks for
    BAD_CODE = "bad_code", "Not 1 <= k <= n <= 256: no code has such numbers of shards."
    BAD_BLOCK_SIZE = "bad_block_size", "A block size outside of what nodes store."
    BLOB_TOO_LARGE = "blob_too_large", "More bytes than a blob of this code and block size may have."
    BAD_KEY = "bad_key", "A key or a nonce prefix of another length than the cipher takes."
    NO_HOLDERS = "no_holders", "Nobody is there to hold a shard."
    TOO_MANY_HOLDERS = "too_many_holders", "More holders than a roster may have."
    NO_SPACE = "no_space", "The node does not work on this task, or on several and it was not said on which."
    BAD_TERM = "bad_term", "Fewer rounds than data is kept at least, or more than nodes promise at a time."
    INCOMPLETE = "incomplete", "The blob ends before its last block was put together."
    FINISHED = "finished", "The blob was finished already and takes nothing more."

    # what shards are wrong with
    TOO_FEW_SHARDS = "too_few_shards", "Fewer than k shards: the block cannot be put together."
    UNKNOWN_SHARD = "unknown_shard", "A block or shard number that the blob does not have."
    WRONG_LENGTH = (
        "wrong_length",
        "A shard of another length than the others, or than the blob's manifest says.",
    )

    # what others have
    NOT_FOUND = "not_found", "Nobody who could be asked has the manifest with this CID."
    TOO_FEW_HOLDERS = (
        "too_few_holders",
        "Fewer than k shards of a block could be had from anybody, for now at least.",
    )

    # what the bytes of others are wrong with
    BAD_REFERENCE = "bad_reference", "Not a reference: a CID, and for a private blob a full stop and its key."
    BAD_MANIFEST = "bad_manifest", "Bytes that are no manifest, or a manifest that contradicts itself."
    WRONG_MANIFEST = "wrong_manifest", "A manifest, but not the one that was asked for: its CID is another."
    FALSE_MANIFEST = (
        "false_manifest",
        "Every shard is what the manifest says, and what they make up is not: its author wrote it so.",
    )
    WRONG_KEY = (
        "wrong_key",
        "No key for a private blob, a key for a public one, or not the key it was closed with.",
    )
    BAD_ANSWER = "bad_answer", "Bytes that are no answer to a challenge."


class DataError(ValueError):
    """Data that is refused, with the `reason`; `str(error)` is for a person."""

    def __init__(self, reason: DataReason, detail: str = "") -> None:
        super().__init__(detail or reason.__doc__)
        self.reason = reason
