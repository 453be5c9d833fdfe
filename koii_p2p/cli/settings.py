"""The settings of a node as one frozen value, each with where it came from: flag, environment, file or default."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import platformdirs
import typer
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from koii_p2p.cli.main import Invocation, OutputFormat
from koii_p2p.cli.output import configure_logs
from koii_p2p.errors import ConfigurationError
from koii_p2p.network.settings import DhtMode
from koii_p2p.settlement.priority_fees import PriorityFees
from koii_p2p.settlement.rpc_urls import shown_url

PREFIX: Final = "KOII_P2P_"

# Koii docs: clusters. The first letters are those of the Solana and Koii command lines.
CLUSTERS: Final = {
    "local": "http://127.0.0.1:8899",
    "testnet": "https://testnet.koii.network",
    "devnet": "https://devnet.koii.network",
    "mainnet": "https://mainnet.koii.network",
}


def _cluster(value: str) -> str:
    names = [name for name in (*CLUSTERS, "localhost", "mainnet-beta") if value and name.startswith(value)]
    if names and (len(value) == 1 or value in names):
        return {"localhost": "local", "mainnet-beta": "mainnet"}.get(names[0], names[0])
    if all(part.strip().startswith(("http://", "https://")) for part in value.split(",")):
        return value
    raise ValueError(
        "it is neither local, testnet, devnet or mainnet, nor http:// or https:// addresses with commas between them"
    )


def _split(value: object) -> object:
    """Lists may be written with commas, as in an environment variable."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
UserPath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
UserPaths = Annotated[tuple[UserPath, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """Every setting that outlives one command. Built by `load_settings` only."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=PREFIX, validate_default=True)

    home: UserPath = Field(
        default_factory=lambda: platformdirs.user_data_path("koii-p2p"), description="The node's folder."
    )
    url: Annotated[str, AfterValidator(_cluster)] = Field(
        default="local",
        description="K2: local, testnet, devnet, mainnet, or RPC URLs: one, or three to five with commas for a quorum.",
    )
    keypair: UserPath | None = Field(
        default=None, description="The staking key file; the home's staking.json if not given."
    )
    wallet: UserPath | None = Field(
        default=None, description="The main wallet's key file; the home's wallet.json if not given."
    )
    output: OutputFormat = Field(default=OutputFormat.TABLE, description="Print results as table or json.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe log lines that are shown."
    )
    tasks: Names = Field(default=(), description="Tasks to work on, by their base58 ids.")
    carrier: Literal["program", "memo", "koii-task"] = Field(
        default="program",
        description="What holds rounds on K2: program (the settlement program), memo or koii-task; docs/carriers.md.",
    )
    genesis: UserPaths = Field(
        default=(), description="For carrier memo: the genesis document of each task (paths of files)."
    )
    readings: str | None = Field(
        default=None,
        description="For carrier koii-task: how Koii's program is read: native, kpl, or the path of a TOML file.",
    )
    listen: Names = Field(
        default=("/ip4/0.0.0.0/tcp/0",), description="Addresses to listen on for peers (multiaddrs)."
    )
    announce: Names = Field(
        default=(),
        description="Addresses to tell peers in place of the listening ones, as behind a router (multiaddrs).",
    )
    bootstrap: Names = Field(default=(), description="Peers to connect to first (multiaddrs with /p2p/).")
    relay: bool = Field(
        default=False,
        description="Carry connections to nodes that nobody can dial; for a node that others can dial itself.",
    )
    mdns: bool = Field(default=True, description="Find peers on the local network by multicast DNS.")
    dht: DhtMode = Field(
        default="auto",
        description="The DHT: auto (serve others once they can reach this node), client, server, or off; docs/dht.md.",
    )
    api_port: int = Field(
        default=0, ge=0, le=65535, description="Port of the operator's API on loopback; 0 picks a free one."
    )
    task_host: str | None = Field(
        default=None,
        description="Address to serve the REST of tasks on; with neither this nor task_port it is not served.",
    )
    task_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port for the REST of tasks: 30017 if only task_host is given; 0 picks a free one.",
    )
    priority_fee_least: int = Field(
        default=0,
        ge=0,
        lt=2**64,
        description="The least bid for a place in a block, in micro-Roe a compute unit.",
    )
    priority_fee_most: int = Field(
        default=0,
        ge=0,
        lt=2**64,
        description="The most that is bid for it, whatever recent blocks asked; 0 bids nothing.",
    )

    @property
    def rpc_url(self) -> str:
        """The address of the K2 RPC node, or several with commas. It may hold a provider's key: see `shown_url`."""
        return CLUSTERS.get(self.url, self.url)

    @property
    def shown_url(self) -> str:
        """The same without passwords and keys, to be shown."""
        return ", ".join(shown_url(one.strip()) for one in self.rpc_url.split(","))

    @property
    def shown_cluster(self) -> str:
        """The setting `url` as it was given, a cluster's name or addresses, to be shown."""
        return self.url if self.url in CLUSTERS else self.shown_url

    @property
    def staking_key(self) -> Path:
        """The staking key file."""
        return self.keypair or self.home / "staking.json"

    @property
    def wallet_key(self) -> Path:
        """The main wallet's key file."""
        return self.wallet or self.home / "wallet.json"

    @property
    def priority_fees(self) -> PriorityFees:
        """How to bid for places in blocks. Raises `ConfigurationError` if the least is above the most."""
        return PriorityFees(self.priority_fee_least, self.priority_fee_most)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing is read here: `load_settings` asks the sources itself, to know which gave what."""
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, the origin of each by name ("default" included), and the settings file that was read, if any."""

    settings: Settings
    origins: dict[str, str]
    file: Path | None


def load_settings(invocation: Invocation, **flags: object) -> Loaded:
    """Settle every setting: flag, then environment, then TOML file, then default.

    `flags` are options of the command itself that are settings, None where not given. Raises `ConfigurationError`.
    """
    given = {
        **invocation.flags,
        **{name: value for name, value in flags.items() if value not in (None, (), [])},
    }
    config = given.pop("config", None)
    environment: dict[str, Any] = EnvSettingsSource(Settings)()
    named = config is not None or PREFIX + "CONFIG" in os.environ
    file = Path(str(config or os.environ.get(PREFIX + "CONFIG") or _home(given, environment) / "config.toml"))
    in_file = _read(file, must_exist=named)
    values = {**in_file, **environment, **given}
    origins = {
        name: f"flag --{name.replace('_', '-')}"
        if name in given
        else f"environment {PREFIX}{name.upper()}"
        if name in environment
        else f"file {file}"
        if name in in_file
        else "default"
        for name in Settings.model_fields
    }
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise _invalid(error, origins) from error
    return Loaded(settings, origins, file if file.exists() else None)


def settings_of(ctx: typer.Context) -> Settings:
    """The settings of a command that does one thing and ends; it logs warnings only."""
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    configure_logs(invocation.verbosity, "warning")
    return settings


def _home(given: Mapping[str, object], environment: Mapping[str, object]) -> Path:
    home = given.get("home") or environment.get("home")
    return Path(str(home)).expanduser() if home else platformdirs.user_data_path("koii-p2p")


def _read(file: Path, *, must_exist: bool) -> dict[str, Any]:
    """The values of a settings file. Raises `ConfigurationError` if it is no TOML or has unknown names."""
    what = f"The settings file {file} cannot be used."
    if not file.exists():
        if must_exist:
            raise ConfigurationError(
                what, "It does not exist.", "Name the right file, or make one with `koii-p2p init`."
            )
        return {}
    try:
        values: dict[str, Any] = TomlConfigSettingsSource(Settings, file)()
        names = tomllib.loads(file.read_text()).keys()
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(what, f"It is not TOML: {error}.", "Correct this line.") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(
            what, f"It could not be read: {reason}.", "Check the file and its permissions."
        ) from error
    for name in names:
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(name, Settings.model_fields, 1)
            remedy = (
                f"Perhaps you mean `{near[0]}`."
                if near
                else "Remove it; `koii-p2p config show` lists the settings."
            )
            raise ConfigurationError(what, f"It has a setting `{name}`, which does not exist.", remedy)
    return values


def _invalid(error: ValidationError, origins: Mapping[str, str]) -> ConfigurationError:
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    why = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
    field = Settings.model_fields.get(name)
    given = first["input"]
    if name == "url" and "/" in str(given):  # it may hold a provider's key; a cluster's name does not
        given = shown_url(str(given))
    return ConfigurationError(
        f"The setting {name} ({origins.get(name, 'unknown')}) cannot be used.",
        f"Of {given!r}: {why[:1].lower()}{why[1:]}.",
        f"It means: {field.description}" if field is not None else "Remove it.",
    )
