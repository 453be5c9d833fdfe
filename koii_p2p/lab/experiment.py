"""Experiments as people write them: a scenario with a question, the arms that are compared, and the axes of a sweep.

A TOML file as `scenario_file` reads it, and above its tables:

    title = "..."                       # what a report is headed with
    question = "..."                    # what the experiment is to answer
    closed_form = "..."                 # what theory says about it

    [[arms]]                            # variants of the scenario that are compared; one without any
    name = "koii-today"
    about = "..."
    protocol.profile = "koii-today"
    published.detection = 0.9           # what others measured of it, by name of the metric; with its unit

    [axes]                              # every arm is played with every combination of these
    "protocol.auditors" = [1, 2, 3]

    [marks]                             # where on an axis theory says that something changes
    "protocol.auditors" = 2

A file without any of this is an experiment of one arm. Everything of an experiment is in its table, which a run folder
keeps as JSON.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any, Final

from koii_p2p.errors import ConfigurationError
from koii_p2p.lab.scenario import EngineKind, Scenario, bad, nearest
from koii_p2p.lab.scenario_file import read_table, scenario_of
from koii_p2p.lab.words import is_metric

SCENARIOS: Final = Path(__file__).parent / "scenarios"
"""The scenarios that come with the package."""

MOST_ARMS: Final = 10_000
"""Arms of an experiment, those of its axes counted."""
MOST_JOBS: Final = 1_000_000
_MOST_TEXT: Final = 4000
_TEXTS: Final = ("title", "question", "closed_form")
_OURS: Final = (*_TEXTS, "arms", "axes", "marks")
"""What a scenario file has beside a scenario."""
_OF_ARM: Final = ("name", "about", "published")
"""What an arm has beside settings."""
_ONLY: Final = "all"
"""Name of the arm of an experiment that compares nothing."""

Value = int | float | str | bool | list[Any]
Settings = tuple[tuple[str, Value], ...]


@dataclass(frozen=True, slots=True)
class Arm:
    """One variant of an experiment's scenario.

    `settings` are by dotted name what it has of its own, those of the axes last; `group` is its name without them.
    `published` is what others measured, by name of the metric and in its unit.
    """

    name: str
    group: str
    about: str
    settings: Settings
    scenario: Scenario
    published: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """A setting that is varied, by dotted name, and the values it takes."""

    setting: str
    values: tuple[Value, ...]

    @property
    def is_numeric(self) -> bool:
        """Whether its values can be put on a scale."""
        return all(type(value) in (int, float) for value in self.values)


@dataclass(frozen=True, slots=True)
class Job:
    """One arm, by its place among the arms, played with one seed."""

    arm: int
    seed: int


@dataclass(frozen=True, slots=True)
class Experiment:
    """A question, and the scenarios that are to answer it. `table` says all of it, as a file would.

    `marks` are values of axes, by setting, from which on theory says something else.
    """

    name: str
    title: str
    question: str
    closed_form: str
    arms: tuple[Arm, ...]
    axes: tuple[Axis, ...]
    marks: Mapping[str, float]
    table: Mapping[str, Any]

    @property
    def engine(self) -> EngineKind:
        """What plays the first arm; if that is gossip alone, all others too."""
        return self.arms[0].scenario.engine

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the arms without what the axes add."""
        return tuple(dict.fromkeys(arm.group for arm in self.arms))

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All that is to be played: seed by seed, so that a run that is cut short has something of every arm."""
        first = self.arms[0].scenario
        return tuple(
            Job(arm, seed)
            for seed in range(first.seed, first.seed + first.seeds)
            for arm in range(len(self.arms))
        )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that the report is about; all if empty."""
        return self.arms[0].scenario.metrics


def bundled() -> dict[str, Path]:
    """The files of the scenarios that come with the package, by name."""
    return {file.stem: file for file in sorted(SCENARIOS.glob("*.toml"))}


def find(name: str) -> Path:
    """The file of a scenario: a path, or the name of one that comes with the package. Raises `ConfigurationError`."""
    known = bundled()
    if name in known:
        return known[name]
    if name.endswith((".toml", ".json")) or "/" in name:
        return Path(name)
    raise ConfigurationError(
        f"There is no scenario {name!r}.",
        f"The nearest one that comes with the package is {nearest(name, known)}.",
        "`koii-p2p lab list` lists them; a file of your own is named with its .toml.",
    )


def read_experiment(name: str) -> Experiment:
    """The experiment of a file, or of a bundled scenario by name. Raises `ConfigurationError`."""
    return experiment_of(read_table(find(name)))


def experiment_of(table: Mapping[str, Any]) -> Experiment:
    """The experiment that a table says. Raises `ConfigurationError`."""
    plain = _plain(table)
    base = {name: value for name, value in plain.items() if name not in _OURS}
    known = (*_OURS, *(one.name for one in fields(Scenario)))
    for name in plain:
        if name not in known:
            raise bad(f"The setting `{name}` does not exist", f"Did you mean {nearest(name, known)}?")
    texts = {name: _text(plain, name) for name in _TEXTS}
    axes = _axes(plain.get("axes", {}))
    arms = tuple(_arms(base, plain.get("arms", []), axes))
    name = arms[0].scenario.name
    experiment = Experiment(
        name,
        texts["title"] or name,
        texts["question"],
        texts["closed_form"],
        arms,
        axes,
        _marks(plain.get("marks", {})),
        plain,
    )
    if len({arm.scenario.engine is EngineKind.GOSSIP for arm in arms}) > 1:
        raise bad("Some arms are of rounds and others of gossip alone", "Write an experiment for each.")
    if len(arms) * arms[0].scenario.seeds > MOST_JOBS:
        raise bad(
            f"{len(arms)} arms with {arms[0].scenario.seeds} seeds each are more than {MOST_JOBS} runs",
            "Use fewer values, or fewer seeds.",
        )
    return experiment


def with_settings(
    table: Mapping[str, Any], settings: Iterable[tuple[str, Sequence[Value]]]
) -> dict[str, Any]:
    """A table with other settings, by dotted name: one value replaces what it says, several become an axis.

    Raises `ConfigurationError` for what an arm sets by itself, since it would win.
    """
    found: dict[str, Any] = deepcopy(_plain(table))
    for name, values in settings:
        for arm in found.get("arms", []):
            if name in dict(dotted(arm)):
                raise bad(
                    f"`{name}` is set by the arm {arm.get('name')!r} of this scenario",
                    "Vary something else, or write a scenario file of your own.",
                )
        found.get("axes", {}).pop(name, None)
        if len(values) == 1:
            _put(found, name, values[0])
        else:
            found.setdefault("axes", {})[name] = list(values)
    return found


def settings_given(text: str) -> tuple[str, tuple[Value, ...]]:
    """A setting as on a command line: "protocol.auditors=1,2,3". Raises `ConfigurationError`.

    Values are TOML; what is not is taken as text, so that "protocol.profile=posp" needs no quotes.
    """
    name, sign, values = text.partition("=")
    if not sign or not name.strip() or not values.strip():
        raise bad(f"{text!r} is no setting", "Write it like protocol.auditors=3, or protocol.auditors=1,2,3.")
    whole = _toml(f"[{values}]")
    if isinstance(whole, list) and whole:
        return name.strip(), tuple(whole)
    return name.strip(), tuple(_scalar(one.strip()) for one in values.split(","))


def dotted(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of nested tables by dotted name; a table without any is a value."""
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def to_json(experiment: Experiment) -> str:
    """The table of an experiment as JSON; `experiment_of` of it is the same experiment."""
    return json.dumps(experiment.table, indent=1)


# --- the parts of a table


def _axes(table: object) -> tuple[Axis, ...]:
    if not isinstance(table, Mapping):
        raise bad("`axes` is no table", "Write [axes] on a line of its own, and settings with lists below.")
    # "protocol.auditors" in quotes and protocol.auditors without are the same to a reader.
    found = []
    for name, values in dotted(table):
        if not isinstance(values, list) or not values:
            raise bad(f"The axis `{name}` is no list of values", f'Write "{name}" = [1, 2, 3].')
        if len({json.dumps(value) for value in values}) != len(values):
            raise bad(f"The axis `{name}` has a value twice", "Write each once.")
        found.append(Axis(name, tuple(values)))
    return tuple(found)


def _marks(table: object) -> dict[str, float]:
    if not isinstance(table, Mapping):
        raise bad(
            "`marks` is no table", "Write [marks] on a line of its own, and settings with numbers below."
        )
    found = dict(dotted(table))
    for name, value in found.items():
        if type(value) not in (int, float):
            raise bad(f"The mark of `{name}` is no number", f'Write "{name}" = 0.2.')
    return found


def _arms(base: Mapping[str, Any], tables: object, axes: Sequence[Axis]) -> Iterator[Arm]:
    if not isinstance(tables, list) or not all(isinstance(one, Mapping) for one in tables):
        raise bad("`arms` is no list of tables", "Write [[arms]] for each.")
    grid = 1
    for axis in axes:
        grid *= len(axis.values)
    if grid * max(1, len(tables)) > MOST_ARMS:
        raise bad(f"{grid * max(1, len(tables))} combinations of arms and axes", f"Use at most {MOST_ARMS}.")
    names = [one.get("name") for one in tables]
    if not all(isinstance(name, str) and 0 < len(name) <= 64 for name in names) or len(set(names)) < len(
        names
    ):
        raise bad(
            "An arm has no name, or one of another", "Give each a name of its own, of 1 to 64 characters."
        )
    for own in tables or [{"name": _ONLY}]:
        settings = dict(dotted({k: v for k, v in own.items() if k not in _OF_ARM}))
        for axis in axes:
            if axis.setting in settings:
                raise bad(
                    f"`{axis.setting}` is an axis, and set by the arm {own['name']!r}", "Leave one out."
                )
        for values in product(*(axis.values for axis in axes)):
            chosen = {axis.setting: value for axis, value in zip(axes, values, strict=True)}
            yield _arm(base, own, settings, chosen)


def _arm(
    base: Mapping[str, Any], own: Mapping[str, Any], settings: dict[str, Any], chosen: dict[str, Any]
) -> Arm:
    table = deepcopy(dict(base))
    for name, value in (settings | chosen).items():
        _put(table, name, value)
    for name in ("seed", "seeds", "name", "metrics"):
        if name in settings or name in chosen:
            raise bad(f"`{name}` is the same for all arms", "Write it above the tables.")
    group = str(own["name"])
    said = ", ".join(f"{short(name)} {shown(value)}" for name, value in chosen.items())
    name = said if group == _ONLY and said else f"{group}, {said}" if said else group
    about = str(own.get("about", ""))
    own_settings = tuple((settings | chosen).items())
    return Arm(name, group, about, own_settings, scenario_of(table), _published(own.get("published", {})))


def _published(table: object) -> dict[str, float]:
    if not isinstance(table, Mapping):
        raise bad("`published` of an arm is no table", "Write published.latency_p99 = 10000 in it.")
    for name, value in table.items():
        if not is_metric(name):
            raise bad(f"`published` has a metric `{name}` that does not exist", "Name one that a report has.")
        if type(value) not in (int, float):
            raise bad(f"published.{name} = {value!r} is no number", "Write it in the unit of the metric.")
    return dict(table)


def short(setting: str) -> str:
    """The last part of a setting's name; of a population's, its behaviour."""
    path = setting.split(".")
    return (
        path[1] if path[0] == "population" and path[-1] in (path[1], "share") else path[-1].replace("_", " ")
    )


def shown(value: Value) -> str:
    """A value of a setting as people write it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _put(table: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    place = table
    for part in path:
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            # A share may stand for the table of a group: fraudulent = 0.1.
            if path[0] != "population" or part == path[0]:
                raise bad(f"`{name}`: {part} has no settings", "Name one as in a file, with dots for tables.")
            inner = place[part] = {"share": inner}
        place = inner
    if isinstance(place.get(last), dict) and not isinstance(value, dict):
        if path == ["population"]:
            place, last = place[last], "share"
        elif name != "network.latency":
            raise bad(f"`{name}` is a table", "Name one of its settings, with a dot.")
    place[last] = value


def _plain(value: Any) -> Any:
    """TOML's values as JSON's."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, Decimal):
        return float(value)
    return value


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name, "")
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise bad(f"`{name}` is no text of at most {_MOST_TEXT} characters", "Write it in quotes.")
    return " ".join(value.split())


def _scalar(text: str) -> Value:
    found = _toml(text)
    return text if found is None or isinstance(found, dict) else found


def _toml(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None
