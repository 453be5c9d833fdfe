from __future__ import annotations

from pathlib import Path

import pytest
from solders.pubkey import Pubkey

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.node.trust import Consent, NotTrusted, TrustList, require_consent, trust_entry
from koii_p2p.records.cid import cid_of, cid_to_text
from koii_p2p.storage.faults import StorageError
from koii_p2p.storage.home import Home
from koii_p2p.tasks.offer import Offer

TASK, AUTHOR, CID = b"\1" * 32, b"\2" * 32, cid_of(b"code")
OFFER = Offer(TASK, AUTHOR, CID, "t", "somebody", 100, 3, ("ADDON REQUIRE_INTERNET",), ())
NAMES = (str(Pubkey(TASK)), str(Pubkey(AUTHOR)), cid_to_text(CID))
OTHERS = (str(Pubkey(b"\3" * 32)), cid_to_text(cid_of(b"other")))


def listed(home: Path) -> TrustList:
    return TrustList(Home(home), Limits())


def test_what_is_added_is_listed_until_it_is_removed(tmp_path: Path) -> None:
    trusted = listed(tmp_path)
    assert trusted.entries() == ()
    assert [trusted.add(name) for name in (*NAMES, NAMES[0])] == [True, True, True, False]
    assert listed(tmp_path).entries() == NAMES
    assert [trusted.remove(NAMES[1]), trusted.remove(NAMES[1])] == [True, False]
    assert trusted.entries() == (NAMES[0], NAMES[2])
    assert (tmp_path / "trust.txt").stat().st_mode & 0o777 == 0o600


def test_the_file_is_for_people_too(tmp_path: Path) -> None:
    file = tmp_path / "trust.txt"
    file.write_text(f"# mine\n\n  {NAMES[0]}   # the first\n{NAMES[2]}\n{NAMES[2]}\n")
    file.chmod(0o600)
    assert listed(tmp_path).entries() == (NAMES[0], NAMES[2])
    file.write_text("everything\n")
    with pytest.raises(ConfigurationError, match="'everything' cannot be trusted"):
        listed(tmp_path).entries()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        listed(tmp_path).entries()
    file.write_text("#" * (Limits().trust_file_bytes + 1))
    with pytest.raises(StorageError, match="more than"):
        listed(tmp_path).entries()
    file.write_text("")
    file.chmod(0o666)
    with pytest.raises(StorageError, match="chmod 600"):
        listed(tmp_path).entries()


@pytest.mark.parametrize(
    "text", ["", "*", "bafk", NAMES[2].upper(), NAMES[2][:-1], NAMES[0] + "11", "é", "a" * 59, "\0"]
)
def test_what_names_no_code_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be trusted"):
        trust_entry(text)
    with pytest.raises(ConfigurationError):
        listed(tmp_path).add(text)
    assert not (tmp_path / "trust.txt").exists()


@pytest.mark.parametrize("name", NAMES)
def test_the_task_its_author_or_its_cid_lets_code_run(name: str, tmp_path: Path) -> None:
    trusted = listed(tmp_path)
    for other in OTHERS:
        trusted.add(other)
    assert Consent(OTHERS).given(OFFER, trusted) is None
    assert Consent((name,)).given(OFFER, trusted) == name
    trusted.add(name)
    assert Consent().given(OFFER, trusted) == name


async def test_nobody_to_ask_is_a_refusal_with_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(NotTrusted) as refused:
        await require_consent(OFFER, tmp_path / "code", Consent(), listed(tmp_path))
    said = refused.value
    assert f"`koii-p2p task trust add {NAMES[2]}`" in said.remedy
    assert f"--trust {NAMES[2]}" in said.remedy
    assert str(tmp_path / "code") in said.remedy
    assert all(
        word in said.why for word in (NAMES[1], "100 bytes", "ADDON REQUIRE_INTERNET", "nobody is there")
    )
    assert said.exit_code == 3


async def test_a_yes_is_remembered_and_a_no_is_not(tmp_path: Path) -> None:
    asked: list[Offer] = []

    async def say(answer: bool, offer: Offer) -> bool:
        asked.append(offer)
        return answer

    no = Consent(ask=lambda offer, _folder: say(False, offer))
    yes = Consent(ask=lambda offer, _folder: say(True, offer))
    with pytest.raises(NotTrusted, match="you said no"):
        await require_consent(OFFER, tmp_path, no, listed(tmp_path))
    assert listed(tmp_path).entries() == ()
    await require_consent(OFFER, tmp_path, yes, listed(tmp_path))
    assert listed(tmp_path).entries() == (NAMES[2],)
    await require_consent(OFFER, tmp_path, no, listed(tmp_path))
    assert asked == [OFFER, OFFER], "what was agreed to once is not asked again"
