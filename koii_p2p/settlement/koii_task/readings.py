"""What Koii's public sources leave open about the task program, and the reading that is to be used.

Nothing here is a default: a carrier is told each reading, or one of the two presets, by name. The presets are what the
sources make likeliest for each of Koii's two programs (create-task-cli, koii-node and the KPL contract's client); none
was ever run against the programs themselves, whose code is not public.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

import base58

KOII_PROGRAM: Final = bytes(base58.b58decode("Koiitask22222222222222222222222222222222222"))
"""The native task program (create-task-cli, src/constant.ts)."""
KPL_PROGRAM: Final = bytes(base58.b58decode("KPLTRVs6jA7QTthuJH2cEmyCEskFbSV2xpZw46cganN"))
"""The task program for tokens (the same file)."""


class Dialect(Enum):
    """Which of the two instruction tables is spoken."""

    KOII = "koii"
    """The native program: every number, also yes and no, is 8 bytes."""
    KPL = "kpl"
    """The KPL program: yes and no are one byte, and instructions name token accounts."""


class UploadForm(Enum):
    """How a piece of a distribution list is uploaded."""

    RAW_512 = "raw 512"
    """512 bytes and no round (koii-node's older table): the program has to know where the piece belongs."""
    NUMBERED_508 = "numbered 508"
    """Piece number u16, 508 u16, 508 bytes, then the round (create-task-cli's table)."""


class Resubmission(Enum):
    """What a second SubmitTask of one key in one round does."""

    REFUSED = "refused"
    REPLACES = "replaces"


class DataAccount(Enum):
    """Which account holds an uploaded distribution list."""

    STAKING = "staking account"
    """The submitter's staking account (koii-node, getDistributionAccount)."""
    SEPARATE = "separate account"
    """An account made for it, which signs beside the submitter (the instruction's four places)."""


class StateForm(Enum):
    """How the task account holds the state."""

    JSON = "json"
    """JSON text, NUL-padded (native tasks)."""
    BORSH = "borsh"
    """Borsh: lengths of 4 bytes, enumerations of one (KPL tasks)."""
    BINCODE = "bincode"
    """The same fields with bincode's lengths of 8 bytes and enumerations of 4: what the name of create-task-cli's
    deserializer says."""


@dataclass(frozen=True, slots=True)
class Readings:
    """One reading of everything that is open.

    `stake_names_address`: Stake carries 64 bytes of service address (koii-node) or not (create-task-cli).
    `upload_writes_task`, `audit_writes_candidate`: whether those accounts are writable. `raise_is_vote`: whether who
    raises an audit has thereby voted against. `fixed_text`: binary states hold texts padded to the size they have in
    CreateTask, rather than with their length.
    """

    dialect: Dialect
    upload: UploadForm
    resubmission: Resubmission
    data_account: DataAccount
    state: StateForm
    stake_names_address: bool
    upload_writes_task: bool
    audit_writes_candidate: bool
    raise_is_vote: bool
    fixed_text: bool

    @property
    def program(self) -> bytes:
        """The program's address on K2."""
        return KOII_PROGRAM if self.dialect is Dialect.KOII else KPL_PROGRAM


NATIVE: Final = Readings(
    dialect=Dialect.KOII,
    upload=UploadForm.NUMBERED_508,
    resubmission=Resubmission.REFUSED,
    data_account=DataAccount.STAKING,
    state=StateForm.JSON,
    stake_names_address=True,
    upload_writes_task=True,
    audit_writes_candidate=True,
    raise_is_vote=True,
    fixed_text=False,
)
"""The likeliest reading of the native program."""

KPL: Final = Readings(
    dialect=Dialect.KPL,
    upload=UploadForm.NUMBERED_508,
    resubmission=Resubmission.REFUSED,
    data_account=DataAccount.STAKING,
    state=StateForm.BORSH,
    stake_names_address=True,
    upload_writes_task=True,
    audit_writes_candidate=True,
    raise_is_vote=True,
    fixed_text=False,
)
"""The likeliest reading of the KPL program."""
