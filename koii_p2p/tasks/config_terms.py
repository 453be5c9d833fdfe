"""What a `config-task.yml` becomes here: the terms of a task, the metadata beside them, and what has no meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from koii_p2p.amounts import roe
from koii_p2p.errors import ConfigurationError
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.terms import TaskTerms, TermsError
from koii_p2p.tasks.config_task import SECTION, STARTS_IN, Network, TaskConfig, TaskType
from koii_p2p.tasks.rule_words import rules_in_words

SLOT_MILLISECONDS: Final = 400
"""K2's nominal slot (k2-web3.js, `timing.ts`: 160 ticks a second, 64 ticks a slot)."""


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """What a task is to be before it has an address and a slot to start in.

    Slots: the windows, `round_time` and `starts_in`. Roe: `bounty_per_round`, `minimum_stake`, and `fund`, which goes
    into the vault at once. `rules` are the audit rules that differ from the default, in words.
    """

    name: str
    program: str
    round_time: int
    submission_window: int
    audit_window: int
    bounty_per_round: int
    minimum_stake: int
    slash_basis_points: int = 7000
    allowed_failed_distributions: int = 3
    rules: Mapping[str, str] = field(default_factory=dict)
    fund: int = 0
    starts_in: int = STARTS_IN

    def terms(self, task: bytes, creator: bytes, starting_slot: int) -> TaskTerms:
        """The terms of this task at an address. Raises `TermsError`, `RulesError`."""
        if not self.program:
            raise TermsError("program is empty")
        return TaskTerms(
            task=task,
            creator=creator,
            name=self.name,
            starting_slot=starting_slot,
            round_time=self.round_time,
            submission_window=self.submission_window,
            audit_window=self.audit_window,
            bounty_per_round=self.bounty_per_round,
            minimum_stake=self.minimum_stake,
            slash_basis_points=self.slash_basis_points,
            allowed_failed_distributions=self.allowed_failed_distributions,
            audit=rules_in_words(self.rules),
            program=self.program,
        )


def plan_of(config: TaskConfig) -> TaskPlan:
    """The task that a config describes; the total bounty funds it. Pure.

    `program` is empty where the file cannot say it: with IPFS it is the CID of an upload. Raises `ConfigurationError`
    for tasks of type KPL: the settlement program pays in KOII alone.
    """
    if config.task_type is TaskType.KPL:
        raise ConfigurationError(
            f"The task {config.task_name} cannot be put on K2 by koii_p2p.",
            "Its task_type is KPL: it pays in tokens, and the settlement program pays in KOII alone.",
            "Write task_type: KOII and amounts in KOII, or create it with Koii's own tool.",
        )
    in_file = "" if config.task_executable_network is Network.IPFS else config.task_audit_program
    return TaskPlan(
        name=config.task_name,
        program=config.own.program or config.task_audit_program_id or in_file,
        round_time=config.round_time,
        submission_window=config.submission_window,
        audit_window=config.audit_window,
        bounty_per_round=roe(config.bounty_amount_per_round),
        minimum_stake=roe(config.minimum_stake_amount),
        slash_basis_points=config.own.slash_basis_points,
        allowed_failed_distributions=config.allowed_failed_distributions,
        rules=config.own.audit,
        fund=roe(config.total_bounty_amount),
        starts_in=config.own.starts_in,
    )


def metadata_of(config: TaskConfig, created_at: int) -> dict[str, Any]:
    """The `metadata.json` that Koii's tool writes for this file; `created_at` in milliseconds since 1970.

    Fields that the file does not have are left out, as they are there.
    """
    texts = {
        "imageUrl": config.image_url,
        "infoUrl": config.info_url,
        "koiiOceanUrl": config.koii_ocean_url,
        "environment": config.environment,
        "migrationDescription": config.migration_description,
    }
    tags = [
        {"type": tag.type.value}
        | ({"value": tag.value} if tag.value else {})
        | ({"description": tag.description} if tag.description else {})
        for tag in config.requirements_tags
    ]
    return {
        "author": config.author,
        "description": config.description,
        "repositoryUrl": config.repository_url,
        "createdAt": created_at,
        **{name: text for name, text in texts.items() if text},
        **({"requirementsTags": tags} if tags else {}),
        **({"tags": list(config.tags)} if config.tags else {}),
    }


METADATA: Final = "metadata, for people; K2 has room for a link to it (`task update --metadata`)"

MEANINGS: Final[Mapping[str, str]] = {
    "task_name": "the task's name on K2",
    "author": METADATA,
    "description": METADATA,
    "markdownDescriptionPath": "the file that the description is in",
    "repositoryUrl": METADATA,
    "imageUrl": METADATA,
    "infoUrl": METADATA,
    "koiiOceanUrl": METADATA,
    "requirementsTags": f"{METADATA}; of them, ADDON REQUIRE_INTERNET asks for the internet (`join --task-network`)",
    "tags": METADATA,
    "environment": f"{METADATA}; every task here is open to all",
    "migrationDescription": METADATA,
    "task_executable_network": "nothing: nodes run the package that the program names (`task create --publish`), or "
    "the code that their operators give them (`join --task ID=PATH`)",
    "task_audit_program": "the program's name on K2, unless the network is IPFS or there is an id",
    "task_audit_program_id": "the program's name on K2",
    "round_time": "slots of a round",
    "submission_window": "slots for submissions, and for the list",
    "audit_window": "slots for audits, and for objections to the list",
    "minimum_stake_amount": "the least stake that works",
    "task_type": "only KOII can be created here",
    "token_type": "nothing: tasks pay in KOII",
    "total_bounty_amount": "what creating the task puts into its vault",
    "bounty_amount_per_round": "the most that a round pays",
    "allowed_failed_distributions": "how many lists of a round may be rejected and tried again",
    "space": "nothing: a task's account here has one size, and rounds are not kept in it",
    "task_id": "nothing: a task is succeeded by another (`task update --successor`)",
    SECTION: "what Koii's file has no field for: program, slash_basis_points, starts_in, audit",
}
"""What each field means here, by its name in the file."""


def timetable(plan: TaskPlan) -> dict[str, int]:
    """How long each part takes, in slots.

    `delay` is what the windows leave of a round, in which nodes reconcile and commit; `until_paid` is from the first
    slot of a round's work to the slot in which its list is settled, if it is not rejected.
    """
    clock = RoundClock(0, plan.round_time, plan.submission_window, plan.audit_window)
    delay = clock.delay(0)
    return {
        "starts_in": plan.starts_in,
        "round_time": plan.round_time,
        "submission_window": plan.submission_window,
        "audit_window": plan.audit_window,
        "delay": delay.closes - delay.opens,
        "until_paid": clock.settles_at(0),
    }


def seconds_of(slots: int) -> float:
    """Slots as seconds at K2's nominal pace."""
    return slots * SLOT_MILLISECONDS / 1000
