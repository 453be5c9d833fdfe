"""Why a document, definition or question is refused: one enum member per rule."""

from __future__ import annotations

from koii_p2p.records.meanings import Meaning


class DocumentReason(Meaning):
    """Why something is refused. The value is the portable name for counters and tests."""

    # bytes that are no document
    BAD_RECORD = "bad_record", "Not a signed document: its form, fields, sizes or signature are wrong."
    BAD_BODY = "bad_body", "The body is not one JSON object of the allowed size, depth and numbers."
    BAD_KEY = "bad_key", "A key (the `_id`) that is empty, too long, or not the one of the body."
    BAD_DEFINITION = "bad_definition", "Numbers, names or authors that a collection cannot have."

    # documents that are not admitted
    WRONG_COLLECTION = "wrong_collection", "It was signed for another collection or task."
    NOT_AN_AUTHOR = "not_an_author", "Its author may not write to this collection, or not to this key."
    TOO_EARLY = "too_early", "Its slot lies in the future: it may be offered again once the slot has come."
    EXPIRED = "expired", "A tombstone older than tombstones are kept."
    NOT_HERE = "not_here", "This node does not hold the shard of its key."
    OVER_QUOTA = "over_quota", "Its author, or the collection, has no room left at this node."
    TOO_MANY_COLLECTIONS = "too_many_collections", "This node keeps no more collections of this task."

    # questions
    BAD_QUERY = "bad_query", "A filter, sort or projection that is not understood, or too large."
    BAD_UPDATE = "bad_update", "An update that is not understood, or does not fit the document."
    TOO_MUCH = "too_much", "The question would look at, or return, more documents than one question may."
    TOO_MANY_READERS = (
        "too_many_readers",
        "As many subscribers as a node serves follow the task's changes already.",
    )
    BAD_MESSAGE = "bad_message", "A peer's message that has not the form of its protocol."
    KEY_TAKEN = "key_taken", "A document with this key is there already."


class DocumentError(ValueError):
    """Something that is refused, with the `reason`; `str(error)` is for a person."""

    def __init__(self, reason: DocumentReason, detail: str = "") -> None:
        super().__init__(detail or reason.__doc__)
        self.reason = reason
