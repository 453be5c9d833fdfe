"""Koii's crawler: find the newest doodle on Google's page, and check that others found the same.

Koii docs: develop/write-a-koii-task, the Google doodle task; ported line for line with the classic classes. Koii's own
vote loop reads the wrong vote of several; here votes are the node's business, and so is the list.
"""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from urllib.request import urlopen

from koii_p2p.tasks.classic import Audit, Submission, namespace_wrapper

LIVE = "https://www.google.com/doodles"
PAGE = Path(__file__).parent / "doodles.html"

SOURCE: str | Path = PAGE
"""What is crawled: the page of this folder, so that the task works without the internet, or `LIVE`."""

LONGEST_PAGE = 4 * 1024 * 1024
SECONDS = 10
WAY = ("div", "div", "a", "img")
"""The path from the node `.latest-doodle.on` to the picture."""


def fetch() -> str:
    """The page, at most `LONGEST_PAGE` bytes. Raises `OSError`: then an audit is UNAVAILABLE, and nobody loses."""
    if isinstance(SOURCE, Path):
        return SOURCE.read_text("utf-8")
    with urlopen(SOURCE, timeout=SECONDS) as answer:
        return answer.read(LONGEST_PAGE).decode("utf-8", "replace")


class Finder(HTMLParser):
    """Finds the first picture on the path `WAY` below the node of the classes latest-doodle and on."""

    EMPTY = frozenset(
        {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: str | None = None
        self._below: list[str] | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if self._below is None:
            if {"latest-doodle", "on"} <= set((given.get("class") or "").split()):
                self._below = []
            return
        if self.found is None and (*self._below, tag) == WAY:
            self.found = given.get("src")
        if tag not in self.EMPTY:
            self._below.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._below and tag in self._below:
            while self._below.pop() != tag:
                pass
        elif self._below == []:
            self._below = None


def newest_doodle() -> str:
    """The address of the newest doodle, without the leading slashes. Raises `LookupError` if the page has none."""
    finder = Finder()
    finder.feed(fetch())
    if finder.found is None:
        raise LookupError("there is no doodle on this page")
    return finder.found.removeprefix("//")


class DoodleSubmission(Submission):
    async def task(self, round):
        await namespace_wrapper.storeSet("doodle", json.dumps(newest_doodle()))

    async def fetchSubmission(self, round):
        return json.loads(await namespace_wrapper.storeGet("doodle"))


class DoodleAudit(Audit):
    def validateNode(
        self, submission_value, round
    ):  # without async: it runs in a thread, since it may wait for a page
        return submission_value == newest_doodle()
