"""A crawler: follow the links of a site, hand in what every page says, and let others look at a sample of it again.

Koii docs: EZSandbox lesson 3, the simple crawler. `fetch` is all that knows where pages come from.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from urllib.request import urlopen

from koii_p2p.tasks import audits
from koii_p2p.tasks.audits import AuditReason
from koii_p2p.tasks.sdk import Audited, Context, Task

SITE: str | Path = Path(__file__).parent / "site"
"""What is crawled: the pages of this folder, so that it works without the internet, or "https://.../" of a site."""

START = "index.html"
PAGES = 12
"""How many pages are asked for: as many as 512 bytes hold."""
SAMPLE = 4
"""How many of them each auditor fetches again."""

NAME = re.compile(r"[a-z0-9-]{1,20}\.html")
"""Pages that are followed."""
ITEM = re.compile(rf"({NAME.pattern})=[0-9a-f]{{8}}")
"""What is handed in for each; a submission must not lead an auditor anywhere else."""
LONGEST_PAGE = 1024 * 1024
SECONDS = 10


def fetch(page: str) -> str:
    """One page of the site, at most `LONGEST_PAGE` bytes. Raises `OSError`."""
    if isinstance(SITE, Path):
        return (SITE / page).read_text("utf-8")
    with urlopen(SITE + page, timeout=SECONDS) as answer:
        return answer.read(LONGEST_PAGE).decode("utf-8", "replace")


class Reader(HTMLParser):
    """Reads a page: its words and its links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.words += data.split()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        target = dict(attributes).get("href") or ""
        if tag == "a" and NAME.fullmatch(target):
            self.links.append(target)


def item_of(page: str, read: Reader) -> str:
    """What is handed in for a page: its name, and 8 hex digits for its words. Markup may change."""
    return f"{page}={sha256(' '.join(read.words).encode()).hexdigest()[:8]}"


def crawl() -> list[str]:
    """The items of the first `PAGES` pages, link by link from `START`. Raises `OSError`."""
    pages, items = [START], []
    for page in pages:  # it grows as it is read
        read = Reader(fetch(page))
        items.append(item_of(page, read))
        pages += [link for link in dict.fromkeys(read.links) if link not in pages]
        if len(items) == PAGES:
            break
    return items


def seen_again(item: str) -> bool | None:
    """Whether a page still says what an item claims; None where it cannot be fetched, which proves nothing."""
    page = item.partition("=")[0]
    try:
        return item == item_of(page, Reader(fetch(page)))
    except OSError:
        return None


class Crawler(Task):
    async def task(self, ctx: Context, round: int) -> None:
        found = await asyncio.to_thread(crawl)  # in a thread: it waits for pages
        await ctx.store.set(f"found {round}", " ".join(found))

    async def submission(self, ctx: Context, round: int) -> str | None:
        return await ctx.store.get(f"found {round}")

    async def audit(self, ctx: Context, submission: str | bytes, round: int, submitter: str) -> Audited:
        items = submission.split(" ") if isinstance(submission, str) else []
        forms = [ITEM.fullmatch(item) for item in items]  # of all of them, whatever the sample is
        if len({form[1] for form in forms if form}) < len(items):
            return audits.invalid(AuditReason.MALFORMED, f"{PAGES} different pages are asked for")
        seed = await ctx.seed(round, submitter)  # nobody else can know which pages this auditor looks at
        look = partial(audits.sample_items, items, seen_again, size=SAMPLE, seed=seed, at_least=PAGES)
        return await asyncio.to_thread(look)
