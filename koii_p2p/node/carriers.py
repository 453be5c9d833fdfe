"""What holds a node's rounds on K2, as its operator chose: the one place that knows the carriers apart.

docs/carriers.md compares them. Settings become a `CarrierChoice`, which is checked before anything is started, and the
choice becomes a client of each task.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Final, get_type_hints

from solders.pubkey import Pubkey

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.records.keys import SecretKey
from koii_p2p.settlement.interface import Settlement
from koii_p2p.settlement.koii_task.readings import KPL, NATIVE, Dialect, Readings
from koii_p2p.settlement.koii_task.settlement import KoiiTaskSettings, KoiiTaskSettlement
from koii_p2p.settlement.memo.genesis import Genesis, load_genesis
from koii_p2p.settlement.memo.settlement import MemoSettlement
from koii_p2p.settlement.priority_fees import PriorityFees
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient

PROGRAM: Final = "program"
MEMO: Final = "memo"
KOII_TASK: Final = "koii-task"

PRESETS: Final = {"native": NATIVE, "kpl": KPL}
_MOST_READINGS_BYTES: Final = 16 * 1024
_PAGE: Final = "docs/carriers.md says what each carrier needs."


@dataclass(frozen=True, slots=True)
class ByProgram:
    """The settlement program holds the rounds, the stakes and the money."""

    name: ClassVar[str] = PROGRAM
    settles: ClassVar[bool] = True
    commits_late: ClassVar[bool] = False
    note: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class ByMemos:
    """Memos hold the rounds; the genesis document of each task holds its terms and stakes."""

    documents: tuple[Genesis, ...]

    name: ClassVar[str] = MEMO
    settles: ClassVar[bool] = False
    commits_late: ClassVar[bool] = False
    note: ClassVar[str] = (
        "Rewards and slashes are recorded, not paid or taken: memos hold no Roe. Who promised to pay can be shown "
        "the list's leaf and proof."
    )


@dataclass(frozen=True, slots=True)
class ByKoiiTask:
    """Koii's own task program holds the rounds, as submissions; `settings` say how it is read."""

    settings: KoiiTaskSettings

    name: ClassVar[str] = KOII_TASK
    settles: ClassVar[bool] = False
    commits_late: ClassVar[bool] = True
    note: ClassVar[str] = (
        "Rewards and slashes are recorded, not paid or taken: Koii's program pays only by lists that are on chain in "
        "full, which this node does not upload. This carrier was never run against Koii's own program."
    )


CarrierChoice = ByProgram | ByMemos | ByKoiiTask
"""What holds the rounds. `settles`: whether the node has leaves paid and slashed; `note`: what to say if not.

`commits_late`: whether K2 takes a commitment in the round's distribution window only, not in the delay before it.
"""


def carrier_choice(
    name: str, genesis: Iterable[Path], readings: str | None, tasks: Iterable[bytes], stake: int = 0
) -> CarrierChoice:
    """The carrier that settings name, with what it needs read from its files.

    `genesis`: the memo tasks' documents, one for each of `tasks`; a document leads to its task by itself.
    `readings`: a preset or the path of a file (see `read_readings`). `stake`: Roe that the node is to stake.
    Raises `ConfigurationError` for what is missing, and for what this carrier has no use for.
    """
    documents = tuple(genesis)
    if name != MEMO and documents:
        raise _useless("genesis", name, "Only memo tasks have a genesis document.")
    if name != KOII_TASK and readings is not None:
        raise _useless("readings", name, "Only Koii's own program has to be read one way or the other.")
    if name == MEMO:
        if stake:
            raise _useless("stake", name, "The stakes of a memo task are those of its genesis document.")
        return ByMemos(_documents_of(documents, tuple(tasks)))
    if name == KOII_TASK:
        return ByKoiiTask(_koii_task_settings(readings))
    return ByProgram()


def settlements(
    choice: CarrierChoice,
    tasks: Iterable[bytes],
    rpc: RpcClient,
    payer: SecretKey,
    staker: SecretKey,
    limits: Limits,
    fees: PriorityFees,
) -> Mapping[bytes, Settlement]:
    """A client for each task. `payer` pays fees, and bids for places as `fees` says; `staker` signs for the node.

    Raises `ConfigurationError` for a task that the choice has nothing about, or readings that cannot be run by.
    """
    match choice:
        case ByProgram():
            program = ProgramSettlement(rpc, payer, staker, limits=limits, fees=fees)
            return dict.fromkeys(tasks, program)
        case ByMemos(documents):
            wanted = tuple(tasks)
            by_task = {document.terms.task: document for document in documents}
            for task in wanted:
                if task not in by_task:
                    raise _no_document(task)
            return {
                task: MemoSettlement(rpc, by_task[task], payer, staker, limits=limits, fees=fees)
                for task in wanted
            }
        case ByKoiiTask(settings):
            koii = KoiiTaskSettlement(rpc, settings, payer, staker, limits=limits, fees=fees)
            return dict.fromkeys(tasks, koii)


# --- memo


def _documents_of(paths: tuple[Path, ...], tasks: tuple[bytes, ...]) -> tuple[Genesis, ...]:
    found: dict[bytes, Path] = {}
    documents = []
    for path in paths:
        document = load_genesis(path)
        task = document.terms.task
        if task in found:
            raise ConfigurationError(
                f"The genesis document {path} is given twice.",
                f"{found[task]} has the same terms and stakes, and so is of the same task.",
                "Leave one of them out.",
            )
        if task not in tasks:
            raise ConfigurationError(
                f"The genesis document {path} is of no task of this node.",
                f"Its terms and stakes give {Pubkey(task)}.",
                f"Work on it with --task {Pubkey(task)}=PATH, or leave the document out.",
            )
        found[task] = path
        documents.append(document)
    for task in tasks:
        if task not in found:
            raise _no_document(task)
    return tuple(documents)


def _no_document(task: bytes) -> ConfigurationError:
    return ConfigurationError(
        f"There is no genesis document of the task {Pubkey(task)}.",
        "With the carrier memo a task's terms and stakes are in one, and nowhere else.",
        "Ask the task's creator for it and give its path: --genesis PATH, or `genesis` in the settings file.",
    )


# --- koii-task


def _koii_task_settings(readings: str | None) -> KoiiTaskSettings:
    if readings is None:
        raise ConfigurationError(
            "The carrier koii-task was not told how to read Koii's program.",
            "Its public sources leave open what some bytes mean, and nothing is assumed.",
            "Give --readings native, or a TOML file with each reading. " + _PAGE,
        )
    preset = PRESETS.get(readings)
    settings = KoiiTaskSettings(preset) if preset else read_readings(Path(readings).expanduser().absolute())
    if settings.readings.dialect is Dialect.KPL:
        raise ConfigurationError(
            "A node cannot work on KPL tasks.",
            "They stake and pay in tokens, whose accounts the carrier koii-task does not manage.",
            "Use a KOII task, with --readings native or a file whose dialect is koii.",
        )
    return settings


def read_readings(path: Path) -> KoiiTaskSettings:
    """Read a TOML file that has every field of `Readings`, and may have `program`, where the program is (base58).

    Raises `ConfigurationError`.
    """
    what = f"The readings in {path} cannot be used."
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_READINGS_BYTES + 1)
        if len(content) > _MOST_READINGS_BYTES:
            raise ConfigurationError(what, "The file is too large.", "Name the right file with --readings.")
        values: dict[str, Any] = tomllib.loads(content.decode())
    except OSError as error:
        names = " or ".join(PRESETS)
        raise ConfigurationError(
            what,
            f"The file cannot be read: {error.strerror}.",
            f"Give --readings {names}, or the right file.",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(what, f"It is not TOML: {error}.", "Correct this line.") from error
    program = _program_in(what, values.pop("program", None))
    fields = get_type_hints(Readings)
    for name in values:
        if name not in fields:
            raise ConfigurationError(
                what, f"There is no reading `{name}`.", f"There are: {', '.join(fields)}."
            )
    missing = [name for name in fields if name not in values]
    if missing:
        raise ConfigurationError(
            what, f"It does not say: {', '.join(missing)}.", "No reading has a default. " + _PAGE
        )
    # One of the few ways of its field each: `_reading` is what knows the types.
    chosen: dict[str, Any] = {name: _reading(what, name, kind, values[name]) for name, kind in fields.items()}
    return KoiiTaskSettings(Readings(**chosen), program=program)


def _reading(what: str, name: str, kind: type, value: object) -> object:
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ConfigurationError(what, f"`{name}` is {value!r:.40}.", "Write true or false.")
    assert issubclass(kind, Enum), "a reading is yes or no, or one of a few ways"
    ways = {str(one.value): one for one in kind}
    if not isinstance(value, str) or value not in ways:
        raise ConfigurationError(
            what, f"`{name}` is {value!r:.40}.", f"Write one of: {', '.join(map(repr, ways))}."
        )
    return ways[value]


def _program_in(what: str, value: object) -> bytes | None:
    if value is None:
        return None
    try:
        return bytes(Pubkey.from_string(str(value)))
    except ValueError as error:
        raise ConfigurationError(
            what, f"`program` is {value!r:.60}, not a key.", "Write 32 bytes in base58, or leave it out."
        ) from error


def _useless(setting: str, carrier: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The setting {setting} is of no use with the carrier {carrier}.",
        why,
        f"Leave {setting} out, or choose another --carrier. {_PAGE}",
    )
