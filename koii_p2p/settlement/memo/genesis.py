"""What a memo task begins with: its terms and its stakes, in one document that the task's address names.

Memos hold no stakes, so everybody has to be told them. Whoever has the document derives the task's address from its
digest, and every record and every anchor names that address: two nodes with different documents have different
tasks. The document is JSON; its digest is taken over the values, so that spaces and the order of fields do not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import base58
from solders.pubkey import Pubkey

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.rounds.audit_rules import AuditRules, Profile, RulesError, Weights
from koii_p2p.rounds.roster import Checkpoint, StakeHistory
from koii_p2p.rounds.terms import U64_MAX, TaskTerms, TermsError
from koii_p2p.settlement.instructions import InstructionError, create_task
from koii_p2p.settlement.memo.records import MEMO_PROGRAM

FORMAT: Final = "koii-p2p memo genesis 1"
MAX_BYTES: Final = 8 * 1024 * 1024
"""Room for 20 000 stakers, each on lines of its own."""
SEED: Final = b"k2a"
NO_KEY: Final = bytes(32)


class GenesisError(ValueError):
    """A genesis document that cannot be the beginning of a task; the text says why."""


@dataclass(frozen=True, slots=True)
class GenesisStake:
    """One staker: its key, what its vote weighs (Roe, held by nobody), and whose its rewards would be."""

    staker: bytes
    amount: int
    beneficiary: bytes


@dataclass(frozen=True)
class Genesis:
    """Terms and stakes of a memo task, checked on construction. Use `make`, which fills in the task's address.

    `pledged` (Roe) is what the creator promises to pay in all; nothing but its word backs it. `nonce` tells apart
    tasks that are otherwise the same. Raises GenesisError.
    """

    terms: TaskTerms
    stakes: tuple[GenesisStake, ...]
    pledged: int
    nonce: int = 0

    def __post_init__(self) -> None:
        if not self.stakes or len(self.stakes) > Limits().roster_entries:
            raise GenesisError(f"there are {len(self.stakes)} stakers, not 1 to {Limits().roster_entries}")
        for name, value in (("pledged", self.pledged), ("nonce", self.nonce)):
            if type(value) is not int or not 0 <= value <= U64_MAX:
                raise GenesisError(f"{name} is {value!r}, not an unsigned 64-bit integer")
        for stake in self.stakes:
            _check_stake(stake, self.terms.minimum_stake)
        keys = [stake.staker for stake in self.stakes]
        if keys != sorted(set(keys)):
            raise GenesisError("the stakers are not sorted by key, or one key appears twice")
        if self.total_stake > U64_MAX:
            raise GenesisError("the stakes together do not fit into 64 bits")
        if self.terms.task != self._address():
            raise GenesisError("the terms name another task than this document gives")

    @classmethod
    def make(cls, terms: TaskTerms, stakes: Iterable[GenesisStake], pledged: int, nonce: int = 0) -> Genesis:
        """The genesis of a new task; `terms.task` is replaced by the address that follows from the rest."""
        ordered = tuple(sorted(stakes, key=lambda stake: stake.staker))
        address = _address(digest_of(terms, ordered, pledged, nonce))
        return cls(replace(terms, task=address), ordered, pledged, nonce)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over all values."""
        return digest_of(self.terms, self.stakes, self.pledged, self.nonce)

    @cached_property
    def amounts(self) -> dict[bytes, int]:
        """Roe by staker."""
        return {stake.staker: stake.amount for stake in self.stakes}

    @cached_property
    def total_stake(self) -> int:
        """Roe of everybody together."""
        return sum(stake.amount for stake in self.stakes)

    def histories(self) -> tuple[StakeHistory, ...]:
        """The stakes as rosters are made of them: there before the first round, and never changed."""
        return tuple(
            StakeHistory(one.staker, one.beneficiary, (Checkpoint(0, one.amount, 0),)) for one in self.stakes
        )

    def to_json(self) -> str:
        """The document; `from_json` reads it back."""
        terms = {
            field.name: getattr(self.terms, field.name)
            for field in fields(TaskTerms)
            if field.name not in ("task", "creator", "audit")
        }
        audit = {field.name: getattr(self.terms.audit, field.name) for field in fields(AuditRules)}
        audit |= {"profile": self.terms.audit.profile.name, "weights": self.terms.audit.weights.name}
        stakes = [
            {"staker": _base58(one.staker), "stake": one.amount, "beneficiary": _base58(one.beneficiary)}
            for one in self.stakes
        ]
        document = {
            "format": FORMAT,
            "task": _base58(self.terms.task),
            "nonce": self.nonce,
            "creator": _base58(self.terms.creator),
            "terms": terms | {"audit": audit},
            "pledged": self.pledged,
            "stakes": stakes,
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Genesis:
        """Read a document. A `task` in it must be the one that follows; it may be left out. Raises GenesisError."""
        if len(text) > MAX_BYTES:
            raise GenesisError(f"it is longer than {MAX_BYTES} bytes")
        try:
            document = json.loads(text, object_pairs_hook=_once_each)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise GenesisError(f"it is not JSON: {error}") from error
        values = _object(document, "the document")
        if values.get("format") != FORMAT:
            raise GenesisError(f'its format is {values.get("format")!r}, not "{FORMAT}"')
        stakes = values.get("stakes")
        if not isinstance(stakes, list):
            raise GenesisError("stakes is not a list")
        genesis = cls.make(_terms_in(values), map(_stake_in, stakes), *_numbers_in(values))
        if "task" in values and _key(values, "task") != genesis.terms.task:
            raise GenesisError(
                f"it says that its task is {values['task']}, but it gives {_base58(genesis.terms.task)}: "
                "a value was changed"
            )
        return genesis

    def _address(self) -> bytes:
        return _address(digest_of(self.terms, self.stakes, self.pledged, self.nonce))


def load_genesis(path: Path, task: bytes | None = None) -> Genesis:
    """Read the genesis document that a setting names; `task`, if given, is the address that it must lead to.

    Raises `ConfigurationError`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        genesis = Genesis.from_json(content)
    except OSError as error:
        raise ConfigurationError(
            "The memo task's genesis document cannot be read.",
            f"{path}: {error.strerror}.",
            "Ask the task's creator for it, or correct the setting.",
        ) from error
    except GenesisError as error:
        raise ConfigurationError(
            f"{path} is not a genesis document.", f"{error}.", "Ask the task's creator for it again."
        ) from error
    if task is not None and genesis.terms.task != task:
        raise ConfigurationError(
            f"{path} is the genesis document of another task.",
            f"Its terms and stakes give {_base58(genesis.terms.task)}, not {_base58(task)}.",
            "Ask the task's creator for the right one; a changed document is a different task.",
        )
    return genesis


def digest_of(terms: TaskTerms, stakes: Iterable[GenesisStake], pledged: int, nonce: int) -> bytes:
    """SHA-256 over the terms as CreateTask packs them, creator, pledge and stakes. Raises GenesisError."""
    try:
        packed = bytes(create_task(terms, nonce).data)
    except InstructionError as error:
        raise GenesisError(str(error)) from error
    hashed = hashlib.sha256(FORMAT.encode() + b"\0" + packed + terms.creator + pledged.to_bytes(8, "little"))
    for one in stakes:
        hashed.update(one.staker + one.amount.to_bytes(8, "little") + one.beneficiary)
    return hashed.digest()


def _address(digest: bytes) -> bytes:
    # A derived address: nobody has its key, so nobody can make it an account that would be mistaken for a task.
    address, _ = Pubkey.find_program_address([SEED, digest], Pubkey(MEMO_PROGRAM))
    return bytes(address)


def _check_stake(stake: GenesisStake, minimum: int) -> None:
    name = _base58(stake.staker)
    if len(stake.staker) != 32 or len(stake.beneficiary) != 32 or stake.beneficiary == NO_KEY:
        raise GenesisError(f"staker and beneficiary of {name} are 32-byte keys, not all zero")
    if type(stake.amount) is not int or not minimum <= stake.amount <= U64_MAX:
        raise GenesisError(
            f"the stake of {name} is {stake.amount!r}, below the minimum of {minimum} Roe or too large"
        )


def _terms_in(values: Mapping[str, Any]) -> TaskTerms:
    given = _object(values.get("terms"), "terms")
    audit = _object(given.pop("audit", {}), "terms.audit")
    try:
        for name, kind in (("profile", Profile), ("weights", Weights)):
            if name in audit:
                audit[name] = kind[str(audit[name])]
        return TaskTerms(task=NO_KEY, creator=_key(values, "creator"), audit=AuditRules(**audit), **given)
    except KeyError as error:
        raise GenesisError(f"terms.audit: there is no {error.args[0]}") from error
    except (TypeError, AttributeError, TermsError, RulesError) as error:
        raise GenesisError(f"terms: {error}") from error


def _stake_in(value: Any) -> GenesisStake:
    one = _object(value, "a stake")
    amount = one.get("stake")
    if type(amount) is not int or not 0 <= amount <= U64_MAX:
        raise GenesisError(f"stake is {amount!r}, not an amount in Roe")
    return GenesisStake(_key(one, "staker"), amount, _key(one, "beneficiary"))


def _numbers_in(values: Mapping[str, Any]) -> tuple[int, int]:
    pledged, nonce = values.get("pledged", 0), values.get("nonce", 0)
    for name, value in (("pledged", pledged), ("nonce", nonce)):
        if type(value) is not int or not 0 <= value <= U64_MAX:
            raise GenesisError(f"{name} is {value!r}, not an unsigned 64-bit integer")
    return pledged, nonce


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise GenesisError(f"{name} is not an object")
    return value


def _key(values: Mapping[str, Any], name: str) -> bytes:
    text = values.get(name)
    # The length is checked first: base58 decoding is quadratic.
    if isinstance(text, str) and len(text) <= 44:
        try:
            key = bytes(base58.b58decode(text))
        except ValueError as error:
            raise GenesisError(f"{name} is not base58: {error}") from error
        if len(key) == 32:
            return key
    raise GenesisError(f"{name} is {text!r:.60}, not a 32-byte key in base58")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise GenesisError("a field appears twice")
    return values


def _base58(key: bytes) -> str:
    return str(base58.b58encode(key).decode())
