"""The command `koii-p2p`: global flags, the table of commands, and what becomes of errors.

Only the command that is asked for is imported, so that `--help` and completion answer at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import koii_p2p
from koii_p2p.errors import OperatorError

EXIT_USAGE = 2
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h: not one of the codes that a caller may act on
EXIT_INTERRUPTED = 130


class OutputFormat(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its module has either `app` (a typer app: a group) or the function of this name."""

    module: str
    summary: str
    function: str = "command"


COMMANDS = {
    "init": Command("koii_p2p.cli.init", "Make a home: keys and a settings file."),
    "keys": Command("koii_p2p.cli.keys", "Make, show and import keys."),
    "journal": Command("koii_p2p.cli.journal", "Show, export and import what this key has signed."),
    "config": Command("koii_p2p.cli.settings_commands", "Show settings and where they come from."),
    "join": Command("koii_p2p.cli.join", "Run a node."),
    "status": Command("koii_p2p.cli.status", "Show a running node: peers, tasks, rounds."),
    "peers": Command("koii_p2p.cli.peers", "Show whom a running node is connected with."),
    "reach": Command("koii_p2p.cli.reach", "Tell whether and how others can get at this node."),
    "logs": Command("koii_p2p.cli.logs", "Show the log of a node of this home, running or not."),
    "mesh": Command("koii_p2p.cli.mesh", "Show how a running node's messages spread."),
    "dht": Command("koii_p2p.cli.dht", "Look into the DHT, and find a peer by its key."),
    "resources": Command("koii_p2p.cli.resources", "Show what a running node uses, and its limits."),
    "doctor": Command(
        "koii_p2p.cli.doctor", "Look for what keeps this node from working, and how to mend it."
    ),
    "data": Command("koii_p2p.cli.data", "Put, get, pin and list task data."),
    "collection": Command("koii_p2p.cli.collection", "Write, read and follow a task's documents."),
    "round": Command("koii_p2p.cli.round_show", "Show one round: submissions, votes, outcomes, anchors."),
    "explain": Command("koii_p2p.cli.explain", "Say why a key was or was not paid for a round."),
    "receipt": Command("koii_p2p.cli.receipt", "Write and check proofs of what a round came to for a key."),
    "balance": Command("koii_p2p.cli.balance", "Show what the keys hold, and their stakes."),
    "stake": Command("koii_p2p.cli.money", "Stake in a task.", "stake"),
    "unstake": Command("koii_p2p.cli.money", "Ask a stake back.", "unstake"),
    "withdraw": Command("koii_p2p.cli.money", "Pay out a stake that was asked back.", "withdraw"),
    "claim": Command("koii_p2p.cli.money", "Have rewards paid.", "claim"),
    "task": Command("koii_p2p.cli.tasks", "Look at tasks; create, fund, pause, update and close them."),
    "k2": Command("koii_p2p.cli.k2", "Run a local K2; give out its coins."),
    "testnet": Command("koii_p2p.cli.testnet", "Run, watch, check and end a network of real nodes."),
    "lab": Command(
        "koii_p2p.cli.lab", "Experiments: thousands of simulated nodes, from a question to a report."
    ),
}

GLOBAL_FLAGS = {
    "--url": True, "-u": True, "--keypair": True, "-k": True, "--config": True, "-C": True, "--output": True,
    "--home": True, "--verbose": False, "-v": False, "-vv": False, "--debug": False, "--version": False,
}  # fmt: skip
"""Flags that may stand anywhere on the line, and whether a value follows."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """The global flags of one command line; every command finds it in `ctx.obj`.

    `flags` has only what was given: name of the setting -> value.
    """

    flags: dict[str, object]
    verbosity: int
    debug: bool


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error has been printed."""
    line = globals_first(arguments)
    try:
        result = build_app(_asked_for(line))(line, prog_name="koii-p2p", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough. Python would complain at exit, when it flushes once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except BaseException as error:  # noqa: BLE001 - the last place that can turn it into a sentence
        return _report(error, line)
    return result if isinstance(result, int) else 0


def globals_first(arguments: Sequence[str]) -> list[str]:
    """Move the global flags to the front, so that `koii-p2p status --output json` works as well. Stops at `--`."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word.split("=")[0] in GLOBAL_FLAGS:
            front.append(word)
            if GLOBAL_FLAGS[word.split("=")[0]] and "=" not in word:
                front += [value] if (value := next(words, None)) is not None else []
        else:
            rest.append(word)
    return front + rest


def build_app(asked_for: str | None) -> typer.Typer:
    """The typer app, in which only the command `asked_for` has its code; the others have their summary."""
    app = typer.Typer(
        name="koii-p2p",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Values: flag, then environment (KOII_P2P_*), then settings file, then default.",
    )
    app.callback()(_global_flags)
    for name, command in COMMANDS.items():
        if name != asked_for:
            app.command(name, help=command.summary)(_not_loaded)
            continue
        module = importlib.import_module(command.module)
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, help=command.summary, no_args_is_help=True)
        else:
            app.command(name, help=command.summary)(getattr(module, command.function))
    return app


def _global_flags(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", "-u", help="K2: l(ocal), t(estnet), d(evnet), m(ainnet), or the URL of an RPC node."
        ),
    ] = None,
    keypair: Annotated[
        Path | None, typer.Option("--keypair", "-k", help="Staking key file, in place of the home's.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-C", help="Settings file, in place of the home's config.toml.")
    ] = None,
    output: Annotated[
        OutputFormat | None, typer.Option("--output", help="Print results as table or json.")
    ] = None,
    home: Annotated[Path | None, typer.Option("--home", help="The node's folder (KOII_P2P_HOME).")] = None,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Log more; twice: everything.")
    ] = 0,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """A peer-to-peer node for Koii tasks: audited rounds off the chain, two roots per round on K2."""
    given: dict[str, object] = {
        "url": url,
        "keypair": keypair,
        "config": config,
        "output": output,
        "home": home,
    }
    flags = {name: value for name, value in given.items() if value is not None}
    ctx.obj = Invocation(flags, verbose, debug)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"koii-p2p {koii_p2p.__version__}")
        raise typer.Exit


def _not_loaded() -> None:
    raise AssertionError("a command that was not asked for is not run")


def _asked_for(line: Sequence[str]) -> str | None:
    """The first word that is neither a global flag nor its value. While completing, the line is in the environment."""
    if "_KOII_P2P_COMPLETE" in os.environ:
        shell_line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
        line = globals_first(shell_line.split()[1:])
    words = iter(line)
    for word in words:
        if not word.startswith("-"):
            return word
        if GLOBAL_FLAGS.get(word):
            next(words, None)
    return None


def _report(error: BaseException, line: Sequence[str]) -> int:
    """Print an error as a person or a program wants it, and return the exit code."""
    from koii_p2p.cli import output

    cause = _cause(error)
    if isinstance(cause, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(cause, SystemExit):
        return cause.code if isinstance(cause.code, int) else 1
    if isinstance(cause, OperatorError):
        what, why, remedy, code = cause.what, cause.why, cause.remedy, cause.exit_code
    elif type(cause).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{cause}\n")  # its text is the help
        return EXIT_USAGE
    elif hasattr(cause, "format_message"):  # typer's usage errors, whatever library they come from
        place = getattr(getattr(cause, "ctx", None), "command_path", "koii-p2p")
        what, why = "The command line cannot be understood.", cause.format_message() or "It is incomplete."
        remedy, code = f"See `{place} --help`.", EXIT_USAGE
    else:
        what = "This is a bug in koii_p2p."
        why = f"{type(cause).__name__}: {cause}" if str(cause) else f"{type(cause).__name__}."
        remedy = "Run it again with --debug, and report what it prints together with the command line."
        code = EXIT_BUG
    output.print_error(
        what, why, remedy, code, as_json=_wants_json(line), traceback_of=error if "--debug" in line else None
    )
    return code


def _cause(error: BaseException) -> BaseException:
    """The error to tell about: of a group, an interrupt before a bug before something an operator can act on."""

    def leaves(one: BaseException) -> Iterator[BaseException]:
        if isinstance(one, BaseExceptionGroup):
            for part in one.exceptions:
                yield from leaves(part)
        else:
            yield one

    def rank(one: BaseException) -> int:
        return 0 if isinstance(one, KeyboardInterrupt) else 2 if isinstance(one, OperatorError) else 1

    return min(leaves(error), key=rank)


def _wants_json(line: Sequence[str]) -> bool:
    """Whether errors are printed as JSON: known before any setting could be read."""
    for position, word in enumerate(line):
        if word.startswith("--output"):
            value = word.partition("=")[2] or (line[position + 1] if position + 1 < len(line) else "")
            return value == OutputFormat.JSON.value
    return os.environ.get("KOII_P2P_OUTPUT", "").lower() == OutputFormat.JSON.value


if __name__ == "__main__":
    main()
