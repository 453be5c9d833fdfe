"""`config-task.yml`: a task's settings, as Koii's create-task-cli reads them, and a section of our own.

Koii's tool takes the fields it knows by name and looks at no others: the section `koii_p2p` does not disturb it.
Fields, limits and the tool's own checks: create-task-cli (`src/utils/validate.ts`, `src/main.ts`) and the comments of
task-template's `config-task.yml`. Windows are slots, amounts KOII (tokens of the mint for tasks of type KPL), `space`
is in megabytes of 10^6 bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Final

from koii_p2p.errors import ConfigurationError
from koii_p2p.rounds.audit_rules import BASIS_POINTS, Profile, RulesError
from koii_p2p.rounds.terms import (
    MAX_FAILED_DISTRIBUTIONS,
    MAX_NAME_BYTES,
    MAX_PROGRAM_BYTES,
    MAX_ROUND_TIME,
    SHORTEST_AUDIT,
)
from koii_p2p.tasks.config_fields import Fault, FieldReader, shown
from koii_p2p.tasks.plain_yaml import MOST_BYTES, YamlError, read_table
from koii_p2p.tasks.rule_words import RULE_NAMES, rules_in_words

FILE_NAME: Final = "config-task.yml"
SECTION: Final = "koii_p2p"
"""The name of our own section of the file."""

STARTS_IN: Final = 150
"""Slots from now to the first round, if none are given: a minute, for the first stakes."""

LEAST_BOUNTY: Final = 10
LEAST_SPACE, MOST_SPACE = Decimal("0.1"), Decimal(50)

_MOST_FAULTS: Final = 20


class Network(StrEnum):
    """Where the task's executable is."""

    IPFS = "IPFS"
    ARWEAVE = "ARWEAVE"
    DEVELOPMENT = "DEVELOPMENT"


class TaskType(StrEnum):
    """What a task pays in."""

    KOII = "KOII"
    KPL = "KPL"


class Requirement(StrEnum):
    """What a task may ask of a node, or of its operator."""

    GLOBAL_VARIABLE = "GLOBAL_VARIABLE"
    TASK_VARIABLE = "TASK_VARIABLE"
    CPU = "CPU"
    RAM = "RAM"
    STORAGE = "STORAGE"
    NETWORK = "NETWORK"
    ARCHITECTURE = "ARCHITECTURE"
    OS = "OS"
    ADDON = "ADDON"


_WITHOUT_VALUE: Final = frozenset({Requirement.GLOBAL_VARIABLE, Requirement.TASK_VARIABLE})
_ENVIRONMENTS: Final = ("TEST", "PRODUCTION")


@dataclass(frozen=True, slots=True)
class RequirementTag:
    """One entry of `requirementsTags`; `value` and `description` are empty where the file has none."""

    type: Requirement
    value: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class OwnTerms:
    """The section `koii_p2p`: what Koii's file has no field for.

    `slash_basis_points` in 1/10000, `starts_in` in slots, `audit` the rules that differ from the default, in the words
    of `rule_words`.
    """

    program: str = ""
    slash_basis_points: int = 7000
    starts_in: int = STARTS_IN
    audit: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """A `config-task.yml`, checked: the fields of Koii's file under Koii's names, in Python's spelling.

    Text that the file does not have is empty. `description` is the content of `markdown_description_path` where there
    is one. Amounts are as written, in KOII (tokens for KPL), with nine decimals at most. `read_config` makes these.
    """

    task_name: str
    author: str
    description: str
    repository_url: str
    task_executable_network: Network
    round_time: int
    audit_window: int
    submission_window: int
    minimum_stake_amount: Decimal
    task_type: TaskType
    total_bounty_amount: Decimal
    bounty_amount_per_round: Decimal
    allowed_failed_distributions: int
    space: Decimal
    image_url: str = ""
    info_url: str = ""
    koii_ocean_url: str = ""
    markdown_description_path: str = ""
    task_audit_program: str = ""
    task_audit_program_id: str = ""
    token_type: str = ""
    requirements_tags: tuple[RequirementTag, ...] = ()
    tags: tuple[str, ...] = ()
    environment: str = ""
    task_id: str = ""
    migration_description: str = ""
    own: OwnTerms = field(default_factory=OwnTerms)


@dataclass(frozen=True, slots=True)
class ConfigRead:
    """A config, which of Koii's fields and our section its file has, and what is to be said of it, in sentences."""

    config: TaskConfig
    fields: tuple[str, ...]
    warnings: tuple[str, ...]


class TaskConfigError(ConfigurationError):
    """A `config-task.yml` with wrong fields (exit code 3); `faults` are all that were found, 20 at most."""

    def __init__(self, path: Path, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        what = f"The task settings {path} cannot be used."
        if len(faults) == 1:
            (one,) = faults
            where = "" if one.line is None else f"Line {one.line}: "
            super().__init__(what, f"{where}{one.field} {one.why}.", one.remedy)
        else:
            listed = "".join(f"\n    {one}" for one in faults)
            remedy = "Correct them; docs/config-task.md has every field."
            super().__init__(what, f"{len(faults)} fields are wrong:{listed}", remedy)


def config_file(path: Path) -> Path:
    """The file itself, or the one of this name in a task's folder."""
    return path / FILE_NAME if path.is_dir() else path


def load_config(path: Path) -> ConfigRead:
    """Read a `config-task.yml`, or that of a folder, and the description that it names.

    Raises `ConfigurationError`; `TaskConfigError` where fields are wrong.
    """
    file = config_file(path)
    return read_config(_content(file), file, lambda name: _description(file.parent, name))


def _content(file: Path) -> bytes:
    what = f"The task settings {file} cannot be read."
    remedy = f"Name a {FILE_NAME}, or the folder that has one."
    try:
        if not file.is_file():  # a pipe would be waited for
            why = "It is not a regular file." if file.exists() else "There is no such file."
            raise ConfigurationError(what, why, remedy)
        with file.open("rb") as opened:
            return opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(what, f"The system says: {error.strerror}.", remedy) from error


def _description(folder: Path, name: str) -> str:
    """The text of `markdownDescriptionPath`, which has to be in the folder, as it is published. Raises ValueError."""
    file = Path(os.path.realpath(folder / name))  # unlike Path.resolve, it bears a circle of links
    if not file.is_relative_to(os.path.realpath(folder)):
        raise ValueError("is outside the folder of this file, and what it names is published")
    if not file.is_file():
        raise ValueError("is not a file beside this one")
    with file.open("rb") as opened:
        data = opened.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"has more than {MOST_BYTES} bytes")
    return data.decode()


def read_config(data: bytes, path: Path, description: Callable[[str], str]) -> ConfigRead:
    """The config in `data`; `path` is named in what is raised. Pure, but for `description`.

    `description` gives the text of a `markdownDescriptionPath`, and may raise ValueError or OSError. Raises
    `TaskConfigError` with every fault, and `ConfigurationError` for text that is not YAML as `plain_yaml` takes it.
    """
    try:
        table = read_table(data)
    except YamlError as error:
        why = str(error)
        raise ConfigurationError(
            f"The task settings {path} cannot be used.",
            f"{why[:1].upper()}{why[1:]}.",
            "Correct this; docs/config-task.md has an example.",
        ) from error
    fields = FieldReader(table)
    config = _config(fields, description)
    if not fields.faults:
        _check_together(fields, config)
    if fields.faults:
        in_order = sorted(fields.faults, key=lambda fault: (fault.line is None, fault.line or 0))
        raise TaskConfigError(path, tuple(in_order[:_MOST_FAULTS]))
    return ConfigRead(config, fields.read, (*fields.unknown(), *_advice(config)))


def _config(fields: FieldReader, description: Callable[[str], str]) -> TaskConfig:
    task_type = fields.choice("task_type", TaskType)
    unit = "KOII" if task_type is TaskType.KOII else "tokens"
    markdown = fields.text("markdownDescriptionPath")
    written = fields.text("description", required=not markdown)
    return TaskConfig(
        task_name=fields.text("task_name", required=True, most=MAX_NAME_BYTES),
        author=fields.text("author", required=True),
        description=_described(fields, markdown, description) if markdown else written,
        repository_url=fields.text("repositoryUrl", required=True),
        image_url=fields.text("imageUrl"),
        info_url=fields.text("infoUrl"),
        koii_ocean_url=fields.text("koiiOceanUrl"),
        markdown_description_path=markdown,
        task_executable_network=fields.choice("task_executable_network", Network),
        task_audit_program=fields.text("task_audit_program"),
        task_audit_program_id=fields.text("task_audit_program_id", most=MAX_PROGRAM_BYTES),
        round_time=fields.whole("round_time", 1, MAX_ROUND_TIME, "slots"),
        audit_window=fields.whole("audit_window", 1, MAX_ROUND_TIME, "slots"),
        submission_window=fields.whole("submission_window", 1, MAX_ROUND_TIME, "slots"),
        minimum_stake_amount=fields.amount("minimum_stake_amount", 0, unit, above=True),
        task_type=task_type,
        token_type=fields.key("token_type", required=task_type is TaskType.KPL),
        total_bounty_amount=fields.amount("total_bounty_amount", LEAST_BOUNTY, unit),
        bounty_amount_per_round=fields.amount("bounty_amount_per_round", 0, unit),
        allowed_failed_distributions=fields.whole(
            "allowed_failed_distributions", 0, MAX_FAILED_DISTRIBUTIONS, "lists"
        ),
        space=fields.number("space", LEAST_SPACE, MOST_SPACE, "MB"),
        requirements_tags=tuple(_requirement(one) for one in fields.tables("requirementsTags")),
        tags=fields.texts("tags"),
        environment=fields.text("environment"),
        task_id=fields.key("task_id"),
        migration_description=fields.text("migrationDescription"),
        own=OwnTerms() if (section := fields.table(SECTION)) is None else _own(section),
    )


def _described(fields: FieldReader, markdown: str, read: Callable[[str], str]) -> str:
    try:
        text = read(markdown).strip()
    except UnicodeDecodeError:
        why = "is not UTF-8 text"
    except (ValueError, OSError) as error:
        why = "cannot be read" if isinstance(error, OSError) else str(error)
    else:
        if text:
            return text
        why = "is empty"
    fields.fault(
        "markdownDescriptionPath",
        f"is {shown(markdown)}, which {why}",
        "Name a text file of this folder, or leave it out and write a description.",
    )
    return ""


def _requirement(tag: FieldReader) -> RequirementTag:
    kind = tag.choice("type", Requirement)
    return RequirementTag(
        kind, tag.text("value", required=kind not in _WITHOUT_VALUE), tag.text("description")
    )


def _own(section: FieldReader) -> OwnTerms:
    audit = section.table("audit")
    return OwnTerms(
        program=section.text("program", most=MAX_PROGRAM_BYTES),
        slash_basis_points=section.whole("slash_basis_points", 0, BASIS_POINTS, "1/10000", default=7000),
        starts_in=section.whole("starts_in", 0, MAX_ROUND_TIME, "slots", default=STARTS_IN),
        audit={} if audit is None else _rules(audit),
    )


def _rules(audit: FieldReader) -> dict[str, str]:
    words = audit.words(RULE_NAMES)
    try:
        rules_in_words(words)
    except RulesError as error:
        name = next((one for one in words if str(error).startswith(f"{one} ")), "")
        audit.fault(name, f"cannot be like this: {error}", "Correct it; docs/protocol.md has the rules.")
    return words


def _check_together(fields: FieldReader, config: TaskConfig) -> None:
    """What holds between fields, each of which is right by itself."""
    windows = config.submission_window + config.audit_window
    if windows > config.round_time:
        fields.fault(
            "round_time",
            f"is {config.round_time} slots, less than the {windows} of submission_window {config.submission_window} "
            f"and audit_window {config.audit_window}",
            f"Make it {windows} or more, or a window shorter.",
        )
    if config.bounty_amount_per_round > config.total_bounty_amount:
        fields.fault(
            "bounty_amount_per_round",
            f"is {config.bounty_amount_per_round:f}, more than total_bounty_amount {config.total_bounty_amount:f}",
            "Make it smaller, or the total larger.",
        )
    staged = rules_in_words(config.own.audit).profile is not Profile.KOII
    if staged and config.audit_window < SHORTEST_AUDIT:
        fields.fault(
            "audit_window",
            f"is {config.audit_window} slots, and an audit has stages that need {SHORTEST_AUDIT}",
            f"Make it {SHORTEST_AUDIT} or more, or choose `profile: koii` under {SECTION}: audit:, without stages.",
        )
    _check_program(fields, config)


def _check_program(fields: FieldReader, config: TaskConfig) -> None:
    network, program = config.task_executable_network, config.task_audit_program
    if network is Network.IPFS:
        if not program.endswith("main.js"):
            fields.fault(
                "task_audit_program",
                f"is {shown(program)}, and with IPFS it is the path of the executable, which ends in main.js",
                "Write the path, such as dist/main.js, or another task_executable_network.",
            )
    elif not program and not config.task_audit_program_id:
        fields.fault(
            "task_audit_program",
            f"is missing, and with {network} it names the executable",
            "Write main for DEVELOPMENT, or the transaction's id for ARWEAVE.",
        )
    elif not config.task_audit_program_id and (size := len(program.encode())) > MAX_PROGRAM_BYTES:
        fields.fault(
            "task_audit_program",
            f"is {shown(program)}, which has {size} bytes",
            f"Write at most {MAX_PROGRAM_BYTES} bytes: that is what the chain has room for.",
        )


def _advice(config: TaskConfig) -> list[str]:
    """What can be done like this, and is seldom meant."""
    found = []
    for name in ("submission_window", "audit_window"):
        window: int = getattr(config, name)
        if 3 * window <= config.round_time:
            found.append(
                f"{name} is {window} of {config.round_time} slots; Koii advises more than a third of the round."
            )
    if config.allowed_failed_distributions == 0:
        found.append(
            "allowed_failed_distributions is 0: a rejected list is not tried again. Koii's own tool takes 1 or more."
        )
    if config.environment and config.environment not in _ENVIRONMENTS:
        found.append(f"environment is {shown(config.environment)}; Koii knows {' and '.join(_ENVIRONMENTS)}.")
    if config.task_id:
        found.append("task_id is for updates: creating a task makes a new one, and leaves that as it is.")
    if config.bounty_amount_per_round == 0:
        found.append("bounty_amount_per_round is 0: nobody is paid.")
    return found
