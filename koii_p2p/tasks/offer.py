"""What an operator is asked about a task's code before it runs: whose it is, what it wants, where it contradicts K2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.tasks.config_task import FILE_NAME, TaskConfig, read_config
from koii_p2p.tasks.config_terms import plan_of
from koii_p2p.tasks.output import printable
from koii_p2p.tasks.package import Package
from koii_p2p.tasks.rule_words import rules_in_words

_MOST_SHOWN: Final = 200
"""Bytes of one thing that a file says, for a terminal."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A task's code that was fetched and not run yet.

    `author` is the key that created the task, which K2 vouches for, `called` the author's name in the file, which
    nobody does. `wishes` are the requirements of its config-task.yml, `differences` where that file and K2's terms
    disagree (K2's count), in sentences.
    """

    task: bytes
    author: bytes
    cid: bytes
    name: str
    called: str
    size: int
    files: int
    wishes: tuple[str, ...]
    differences: tuple[str, ...]


def offer_of(package: Package, terms: TaskTerms) -> Offer:
    """The offer that a package makes for a task with these terms.

    Raises `ConfigurationError` for a config-task.yml that cannot be used: such code is not run.
    """
    config = config_in(package)
    return Offer(
        task=terms.task,
        author=terms.creator,
        cid=package.cid,
        name=terms.name,
        called=printable(config.author, _MOST_SHOWN),
        size=len(package.data),
        files=len(package.files),
        wishes=wishes_of(config),
        differences=differences(config, terms),
    )


def config_in(package: Package) -> TaskConfig:
    """The config-task.yml of a package. Raises `ConfigurationError`."""

    def description(name: str) -> str:
        if name not in package.files:
            raise ValueError("is not in the package")
        return package.files[name].decode()

    path = Path(package.name) / FILE_NAME
    return read_config(package.files[FILE_NAME], path, description).config


def wishes_of(config: TaskConfig) -> tuple[str, ...]:
    """What a task asks of a node, one requirement each: "ADDON REQUIRE_INTERNET", "RAM 4GB: for the model"."""
    texts = (
        " ".join(filter(None, (tag.type.value, tag.value)))
        + (f": {tag.description}" if tag.description else "")
        for tag in config.requirements_tags
    )
    return tuple(printable(text, _MOST_SHOWN) for text in texts)


def differences(config: TaskConfig, terms: TaskTerms) -> tuple[str, ...]:
    """Where a config and the terms on K2 disagree, in sentences. Raises `ConfigurationError` for a task of type KPL."""
    plan = plan_of(config)
    found = [
        f"{name} is {written} in its {FILE_NAME} and {held} on K2, which counts."
        for name, written, held in (
            ("task_name", printable(plan.name, _MOST_SHOWN), printable(terms.name, _MOST_SHOWN)),
            ("round_time", plan.round_time, terms.round_time),
            ("submission_window", plan.submission_window, terms.submission_window),
            ("audit_window", plan.audit_window, terms.audit_window),
            ("bounty_amount_per_round in Roe", plan.bounty_per_round, terms.bounty_per_round),
            ("minimum_stake_amount in Roe", plan.minimum_stake, terms.minimum_stake),
            ("slash_basis_points", plan.slash_basis_points, terms.slash_basis_points),
            (
                "allowed_failed_distributions",
                plan.allowed_failed_distributions,
                terms.allowed_failed_distributions,
            ),
        )
        if written != held
    ]
    if rules_in_words(plan.rules) != terms.audit:
        found.append(f"The audit rules in its {FILE_NAME} are not those on K2, which count.")
    return tuple(found)
