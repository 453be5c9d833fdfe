from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import typer

import koii_p2p
from koii_p2p.cli import main
from koii_p2p.cli.main import EXIT_BUG, EXIT_INTERRUPTED, globals_first, run
from koii_p2p.errors import ChainError, CheckFailed, ConfigurationError, NetworkError


def koii(*arguments: str, home: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KOII_P2P_")}
    if home is not None:
        environment["KOII_P2P_HOME"] = str(home)
    command = [sys.executable, "-m", "koii_p2p.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, input=stdin, timeout=60)


@pytest.fixture
def failing_command(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command `fail` that raises what is put into the list."""
    errors: list[BaseException] = []

    class Module:
        @staticmethod
        def command() -> None:
            raise errors[0]

    monkeypatch.setitem(main.COMMANDS, "fail", main.Command("failing_module", "Fails."))
    monkeypatch.setitem(sys.modules, "failing_module", Module)  # type: ignore[arg-type]
    return errors


def test_help_names_every_command_and_loads_none() -> None:
    code = (
        "import sys\n"
        "from koii_p2p.cli.main import run\n"
        "assert run(['--help']) == 0\n"
        "heavy = 'libp2p solders solana trio httpx plyvel nacl pydantic structlog koii_p2p.node koii_p2p.settlement'\n"
        "print('loaded:', [name for name in heavy.split() if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "loaded: []" in result.stdout
    for name in main.COMMANDS:
        assert name in result.stdout
    for flag in (
        "--url",
        "-u",
        "--keypair",
        "-k",
        "--config",
        "-C",
        "--output",
        "--home",
        "-v",
        "--debug",
        "--version",
    ):
        assert flag in result.stdout


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_listed_command_loads_and_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([name, "--help"]) == 0
    assert f"koii-p2p {name}" in capsys.readouterr().out


def test_the_version_is_printed_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"koii-p2p {koii_p2p.__version__}\n"


@pytest.mark.parametrize(
    ("line", "sorted_line"),
    [
        (["status", "--output", "json"], ["--output", "json", "status"]),
        (["-v", "keys", "show", "-k", "file", "--debug"], ["-v", "-k", "file", "--debug", "keys", "show"]),
        (["keys", "--output=json", "show"], ["--output=json", "keys", "show"]),
        (["keys", "--", "--output", "json"], ["keys", "--", "--output", "json"]),
        (["keys", "--output"], ["--output", "keys"]),
        (["keys", "new", "--outfile", "x"], ["keys", "new", "--outfile", "x"]),
    ],
)
def test_global_flags_may_stand_anywhere(line: list[str], sorted_line: list[str]) -> None:
    assert globals_first(line) == sorted_line


@pytest.mark.parametrize(
    "line", [["nonsense"], ["keys", "nonsense"], ["--nonsense"], ["--output", "xml", "init"], ["-k"]]
)
def test_usage_errors_are_three_sentences_and_exit_code_2(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("error: The command line cannot be understood.")
    assert "--help`" in seen.err
    assert "Traceback" not in seen.err


@pytest.mark.parametrize("line", [[], ["keys"]])
def test_without_a_command_the_help_is_shown(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line) == 2
    seen = capsys.readouterr()
    assert "Usage: koii-p2p" in seen.out + seen.err


@pytest.mark.parametrize(
    ("kind", "code"), [(CheckFailed, 1), (ConfigurationError, 3), (NetworkError, 4), (ChainError, 5)]
)
def test_operator_errors_have_their_exit_code(
    kind: type[ConfigurationError],
    code: int,
    failing_command: list[BaseException],
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing_command.append(kind("It [bold]broke[/bold].", "The reason.", "The remedy."))
    assert run(["fail"]) == code
    assert capsys.readouterr().err.splitlines() == [
        "error: It [bold]broke[/bold].",
        "  The reason.",
        "  The remedy.",
    ]
    assert run(["fail", "--output", "json"]) == code
    assert json.loads(capsys.readouterr().err) == {
        "error": {
            "what": "It [bold]broke[/bold].",
            "why": "The reason.",
            "remedy": "The remedy.",
            "exit_code": code,
        }
    }
    assert run(["fail", "--debug"]) == code
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_unexpected_exception_is_called_a_bug(
    failing_command: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing_command.append(KeyError("oops"))
    assert run(["fail"]) == EXIT_BUG
    seen = capsys.readouterr().err
    assert "This is a bug in koii_p2p." in seen
    assert "KeyError: 'oops'" in seen
    assert "--debug" in seen
    assert "Traceback" not in seen


def test_errors_that_come_in_groups_are_unwrapped(
    failing_command: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    known = NetworkError("No port.", "It is in use.", "Free it.")
    failing_command.append(ExceptionGroup("x", [ExceptionGroup("y", [known])]))
    assert run(["fail"]) == 4
    failing_command[0] = ExceptionGroup("x", [known, ValueError("bug")])
    assert run(["fail"]) == EXIT_BUG
    failing_command[0] = BaseExceptionGroup("x", [known, KeyboardInterrupt()])
    assert run(["fail"]) == EXIT_INTERRUPTED
    assert "ValueError: bug" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (typer.Exit(1), 1), (SystemExit(9), 9)]
)
def test_interrupts_and_exits_print_nothing(
    error: BaseException, code: int, failing_command: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing_command.append(error)
    assert run(["fail"]) == code
    assert capsys.readouterr().err == ""


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = (
        f"{sys.executable} -m koii_p2p.cli config show --home {tmp_path} | true; echo ${{PIPESTATUS[0]}}"
    )
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def test_a_real_process_keeps_data_and_errors_apart(tmp_path: Path) -> None:
    made = koii("init", "--output", "json", home=tmp_path / "home")
    assert (made.returncode, made.stderr) == (0, "")
    assert json.loads(made.stdout)["home"] == str(tmp_path / "home")
    again = koii("--output", "json", "keys", "new", home=tmp_path / "home")
    assert (again.returncode, again.stdout) == (3, "")
    assert json.loads(again.stderr)["error"]["exit_code"] == 3


def test_control_c_in_a_trio_program_is_130(
    failing_command: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> None:
        async def interrupted() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 10)
                raise KeyboardInterrupt

        trio.run(interrupted)

    monkeypatch.setattr(sys.modules["failing_module"], "command", staticmethod(command))
    assert run(["fail"]) == EXIT_INTERRUPTED


@pytest.mark.parametrize(
    "line", [{"COMP_WORDS": "koii-p2p keys ", "COMP_CWORD": "2"}, {"_TYPER_COMPLETE_ARGS": "koii-p2p keys "}]
)
def test_completion_loads_the_command_on_the_line(line: dict[str, str]) -> None:
    shell = "bash" if "COMP_WORDS" in line else "zsh"
    environment = {**os.environ, **line, "_KOII_P2P_COMPLETE": f"complete_{shell}"}
    command = [sys.executable, "-c", "from koii_p2p.cli.main import main; main()"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert "import" in result.stdout
    assert result.stderr == ""
