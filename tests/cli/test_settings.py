from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from koii_p2p.cli.main import Invocation, OutputFormat, run
from koii_p2p.cli.settings import load_settings
from koii_p2p.errors import ConfigurationError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("KOII_P2P_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KOII_P2P_HOME", str(tmp_path))
    return tmp_path


def given(**flags: object) -> Invocation:
    return Invocation(dict(flags), 0, False)


def test_flag_before_environment_before_file_before_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "config.toml"
    assert load_settings(given()).settings.url == "local"
    assert load_settings(given()).origins["url"] == "default"
    file.write_text('url = "testnet"\n')
    assert load_settings(given()).settings.url == "testnet"
    assert load_settings(given()).origins["url"] == f"file {file}"
    monkeypatch.setenv("KOII_P2P_URL", "devnet")
    assert load_settings(given()).settings.url == "devnet"
    assert load_settings(given()).origins["url"] == "environment KOII_P2P_URL"
    loaded = load_settings(given(url="m"))
    assert loaded.settings.url == "mainnet"
    assert loaded.origins["url"] == "flag --url"
    assert loaded.file == file


def test_options_of_a_command_are_flags_unless_they_were_not_given() -> None:
    loaded = load_settings(given(), bootstrap=["/ip4/127.0.0.1/tcp/1"], api_port=None, tasks=[])
    assert loaded.settings.bootstrap == ("/ip4/127.0.0.1/tcp/1",)
    assert loaded.origins["bootstrap"] == "flag --bootstrap"
    assert loaded.origins["api_port"] == loaded.origins["tasks"] == "default"
    assert load_settings(given(), mdns=False).settings.mdns is False


@pytest.mark.parametrize(
    ("moniker", "name", "address"),
    [
        ("l", "local", "http://127.0.0.1:8899"),
        ("localhost", "local", "http://127.0.0.1:8899"),
        ("t", "testnet", "https://testnet.koii.network"),
        ("d", "devnet", "https://devnet.koii.network"),
        ("mainnet-beta", "mainnet", "https://mainnet.koii.network"),
        ("http://10.0.0.1:1234/", "http://10.0.0.1:1234/", "http://10.0.0.1:1234/"),
    ],
)
def test_monikers_of_clusters(moniker: str, name: str, address: str) -> None:
    settings = load_settings(given(url=moniker)).settings
    assert (settings.url, settings.rpc_url) == (name, address)


def test_lists_are_written_with_commas_or_as_toml(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "config.toml").write_text('listen = ["/ip4/1.2.3.4/tcp/5", "/ip6/::/tcp/5"]\n')
    monkeypatch.setenv("KOII_P2P_BOOTSTRAP", "/dns/a/tcp/1, /dns/b/tcp/2")
    settings = load_settings(given()).settings
    assert settings.listen == ("/ip4/1.2.3.4/tcp/5", "/ip6/::/tcp/5")
    assert settings.bootstrap == ("/dns/a/tcp/1", "/dns/b/tcp/2")


def test_paths_follow_the_home_and_the_user(home: Path) -> None:
    settings = load_settings(given()).settings
    assert (settings.staking_key, settings.wallet_key) == (home / "staking.json", home / "wallet.json")
    chosen = load_settings(given(keypair=Path("~/key.json"))).settings
    assert chosen.staking_key == Path.home() / "key.json"


def test_another_settings_file_must_exist(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = home / "other.toml"
    with pytest.raises(ConfigurationError, match="does not exist"):
        load_settings(given(config=other))
    other.write_text('output = "json"\nmdns = false\n')
    assert load_settings(given(config=other)).settings.output is OutputFormat.JSON
    monkeypatch.setenv("KOII_P2P_CONFIG", str(other))
    assert load_settings(given()).settings.mdns is False


@pytest.mark.parametrize(
    ("text", "why", "remedy"),
    [
        ("url = \n", "It is not TOML: Invalid value (at line 1", "Correct"),
        ('ulr = "local"\n', "a setting `ulr`, which does not exist", "Perhaps you mean `url`."),
        ("zzzzzz = 1\n", "a setting `zzzzzz`", "Remove it"),
        ('url = "ftp://x"\n', "Of 'ftp://x': it is neither local", "It means: K2"),
        ("api_port = 70000\n", "Of 70000: input should be less than or equal to 65535.", "It means: Port"),
        ('mdns = "maybe"\n', "Of 'maybe'", "It means: Find peers"),
    ],
)
def test_a_bad_file_is_named_with_the_remedy(home: Path, text: str, why: str, remedy: str) -> None:
    (home / "config.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(given())
    assert why in caught.value.why
    assert caught.value.remedy.startswith(remedy)
    assert str(home / "config.toml") in caught.value.what


def test_a_bad_value_names_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOII_P2P_API_PORT", "many")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(given())
    assert "api_port (environment KOII_P2P_API_PORT)" in caught.value.what


def test_a_file_that_is_no_text_is_a_configuration_error(home: Path) -> None:
    (home / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError):
        load_settings(given())
    (home / "config.toml").unlink()
    (home / "config.toml").mkdir()
    with pytest.raises(ConfigurationError):
        load_settings(given())


def test_settings_cannot_be_changed() -> None:
    settings = load_settings(given()).settings
    with pytest.raises(ValidationError):
        settings.url = "mainnet"


def test_config_show_says_values_and_origins(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "config.toml").write_text('url = "testnet"\n')
    assert run(["config", "show"]) == 0
    assert "testnet" in capsys.readouterr().out
    assert run(["config", "show", "--origin", "--output", "json", "-k", "/x.json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["url"] == {"value": "testnet", "origin": f"file {home / 'config.toml'}"}
    assert shown["keypair"] == {"value": "/x.json", "origin": "flag --keypair"}
    assert shown["home"]["origin"] == "environment KOII_P2P_HOME"
    assert shown["mdns"] == {"value": True, "origin": "default"}


def test_config_show_says_what_carries_and_where_it_was_chosen(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "config.toml").write_text('carrier = "memo"\ngenesis = ["/a.json", "/b.json"]\n')
    monkeypatch.setenv("KOII_P2P_READINGS", "native")
    assert run(["config", "show", "--origin", "--output", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    file = f"file {home / 'config.toml'}"
    assert shown["carrier"] == {"value": "memo", "origin": file}
    assert shown["genesis"] == {"value": ["/a.json", "/b.json"], "origin": file}
    assert shown["readings"] == {"value": "native", "origin": "environment KOII_P2P_READINGS"}
    monkeypatch.setenv("KOII_P2P_GENESIS", "~/c.json, d.json")
    settings = load_settings(given()).settings
    assert settings.genesis == (Path.home() / "c.json", Path.cwd() / "d.json")


def test_there_are_three_carriers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(given()).settings.carrier == "program"
    monkeypatch.setenv("KOII_P2P_CARRIER", "pigeon")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(given())
    assert "carrier (environment KOII_P2P_CARRIER)" in caught.value.what
    assert "'memo'" in caught.value.why


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/rpc/?api-key=sesame", "https://a.example/rpc"),
        ("https://me:sesame@a.example,http://b.example?k=sesame", "https://a.example, http://b.example"),
    ],
)
def test_keys_in_rpc_urls_are_used_and_not_shown(
    url: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KOII_P2P_URL", url)
    settings = load_settings(given()).settings
    assert (settings.rpc_url, settings.shown_url) == (url, shown)
    for form in ("json", "table"):
        assert run(["config", "show", "--output", form]) == 0
        printed = capsys.readouterr().out
        assert shown in printed
        assert "sesame" not in printed


def test_a_bad_rpc_url_is_named_without_what_may_be_a_key() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(given(url="htps://a.example?api-key=sesame"))
    assert "'htps://a.example'" in caught.value.why
    assert "sesame" not in str(caught.value)
