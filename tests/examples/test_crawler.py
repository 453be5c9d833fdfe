from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from koii_p2p.tasks.audits import AuditReason
from koii_p2p.tasks.sdk import Audited, Verdict
from koii_p2p.tasks.task_network import asks_for_internet
from tests.examples.playing import EXAMPLES, command_of, module_of, rehearsed

EXAMPLE = "crawler"


class Auditor:
    """Of a context, what an audit asks for."""

    async def seed(self, *about: object) -> bytes:
        return repr(about).encode()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The files of a folder on a web server of this machine; its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def judged(module: ModuleType, submission: str | bytes) -> Audited:
    found: Audited = asyncio.run(module.Crawler().audit(Auditor(), submission, 1, "submitter"))
    return found


def test_the_site_is_found_by_its_links_and_nothing_else() -> None:
    module = module_of(EXAMPLE)
    found = [item.partition("=")[0] for item in module.crawl()]
    assert found[:3] == ["index.html", "ferry.html", "lighthouses.html"]
    assert len(found) == len(set(found)) == module.PAGES == 12
    assert "draft.html" not in found, "no page leads there"
    assert len(" ".join(module.crawl())) <= 512
    assert judged(module, " ".join(module.crawl())).verdict is Verdict.VALID


def test_the_same_site_on_a_web_server_is_the_same() -> None:
    module = module_of(EXAMPLE)
    offline = module.crawl()
    with served(EXAMPLES / EXAMPLE / "site") as module.SITE:
        assert module.crawl() == offline
        assert judged(module, " ".join(offline)).verdict is Verdict.VALID
    found = judged(module, " ".join(offline))  # the server is gone
    assert (found.verdict, found.reason) == (Verdict.UNAVAILABLE, AuditReason.NOT_SERVED)


def test_words_count_and_markup_does_not() -> None:
    module = module_of(EXAMPLE)
    one, other = (module.Reader(text) for text in ("<p>Two  words</p>", "<h1>Two\nwords</h1>"))
    assert module.item_of("a.html", one) == module.item_of("a.html", other)
    assert module.item_of("a.html", one) != module.item_of("a.html", module.Reader("<p>Two word</p>"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda items: items[:-1], AuditReason.TOO_FEW),
        (lambda items: [*items[:-1], items[0]], AuditReason.MALFORMED),
        (lambda items: [f"../task{'/' * at}.html={'0' * 8}" for at in range(12)], AuditReason.MALFORMED),
        (lambda items: ["not", *items], AuditReason.MALFORMED),
        (lambda items: [item[:-8] + "0badcafe" for item in items], AuditReason.WRONG_ITEM),
        (lambda items: [], AuditReason.MALFORMED),
    ],
)
def test_what_is_too_little_doubled_or_made_up_is_invalid(
    change: Callable[[list[str]], list[str]], reason: AuditReason
) -> None:
    module = module_of(EXAMPLE)
    assert judged(module, " ".join(change(module.crawl()))).reason is reason
    assert judged(module, b"\xff").verdict is Verdict.INVALID


def test_it_asks_for_the_internet() -> None:
    assert asks_for_internet(EXAMPLES / EXAMPLE)


def test_who_makes_pages_up_is_caught(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rehearsed(EXAMPLE, tmp_path, capsys, monkeypatch, "--rounds", "1")
    assert found["rounds"][0]["outcomes"]["wrong-1"] == "REJECTED"
    assert found["rounds"][0]["amounts"]["wrong-1"] == -1_330_000_000
    said = [call["answer"] for call in found["calls"] if call["about"] == "of wrong-1"]
    assert said
    assert all("an item of the sample is wrong" in answer for answer in said)
    assert command_of(EXAMPLE, "testnet up") == ["testnet", "up", "--task", "examples/crawler"]
