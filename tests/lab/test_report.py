from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from koii_p2p import lab
from koii_p2p.lab.comparison import compared, comparison_json
from koii_p2p.lab.plots import headline, plots_of
from koii_p2p.lab.report import agrees, html_of, write_report
from koii_p2p.lab.result import Metric
from koii_p2p.lab.runs import Findings, findings_of
from koii_p2p.lab.words import interval, metric_title, number, part_of, setting_title, with_unit
from koii_p2p.lab.workers import ThisProcess
from tests.lab.small import TABLE, small

PNG = b"\x89PNG\r\n\x1a\n"
VOID = ("meta", "img", "br")


class Page(HTMLParser):
    """What a page holds; raises AssertionError where a tag is closed that was not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.links += [value for name in ("src", "href") if (value := named.get(name)) is not None]
        self.ids += [value for name, value in attrs if name == "id" and value is not None]
        if tag == "img":
            self.images.append(named)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)


@pytest.fixture(scope="module")
def found() -> Findings:
    experiment = small()
    return findings_of(experiment, ThisProcess().play(experiment, experiment.jobs))


@pytest.fixture(scope="module")
def swept() -> Findings:
    experiment = small(rounds=1, population__fraudulent=[0.1, 0.25, 0.4], protocol__reconcile_peers=[1, 2])
    return findings_of(experiment, ThisProcess().play(experiment, experiment.jobs))


def test_a_report_is_one_page_that_needs_nothing_else(found: Findings, tmp_path: Path) -> None:
    page = write_report(found, tmp_path)
    whole = Page(page.read_text())
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in whole.links)
    assert {link[1:] for link in whole.links if link.startswith("#")} == set(whole.ids)
    assert "http" not in page.read_text()
    assert len(whole.images) == len(list((tmp_path / "plots").glob("*.png"))) >= 4
    assert all(image["alt"] for image in whole.images)
    for file in (tmp_path / "plots").glob("*.png"):
        assert file.read_bytes().startswith(PNG)


def test_a_report_says_what_was_asked_what_came_of_it_and_what_theory_says(found: Findings) -> None:
    text = " ".join(" ".join(Page(html_of(found, ())).text).split())
    for said in (TABLE["title"], TABLE["question"], TABLE["closed_form"], "Koii's rules.", "the fast engine"):
        assert str(said) in text
    for arm in ("koii-today", "hardened"):
        metric = found.metrics_of(arm)["detection"]
        assert metric.closed_form is not None
        assert with_unit(metric.value, "share") in text
        assert f"theory: {number(metric.closed_form, 'share')}" in text
        assert interval(metric.low, metric.high, "share") in text
    assert "25 % of the nodes: submits a wrong value" in text
    assert found.versions["code"] in text
    assert found.digests["rounds"] in text


def test_words_of_a_scenario_are_text_and_never_markup(found: Findings) -> None:
    page = html_of(found, ())
    assert "by &lt;few&gt; auditors" in page
    assert "<few>" not in page


def test_the_same_findings_make_the_same_page(found: Findings) -> None:
    first, second = plots_of(found), plots_of(found)
    assert [plot.png for plot in first] == [plot.png for plot in second]
    assert html_of(found, first) == html_of(found, second)


def test_the_plots_of_arms(found: Findings) -> None:
    names = [plot.name for plot in plots_of(found)]
    assert names[:3] == ["shares", "detection-times", "looks"]
    assert {"profits", "spreading"} <= set(names)
    assert all(plot.caption.endswith(".") and plot.title for plot in plots_of(found))


def test_the_plots_of_a_sweep_are_curves_of_what_it_is_about(swept: Findings) -> None:
    plots = plots_of(swept)
    assert [plot.name for plot in plots] == ["curve-detection", "curve-looks", "curve-transactions"]
    assert "Dashed: the closed form" in plots[0].caption
    text = " ".join(Page(html_of(swept, plots)).text)
    assert "koii-today, fraudulent 0.25, reconcile peers 2" in text
    assert "What is varied" in text


def test_a_metric_is_named_by_itself_or_by_what_is_before_its_dot(found: Findings) -> None:
    assert headline(found) == ["detection", "looks", "transactions"]
    experiment = small(metrics=[["profit"]])
    assert headline(findings_of(experiment, ThisProcess().play(experiment, experiment.jobs[:2]))) == [
        "profit.fraudulent",
        "profit.honest",
        "profit.lazy",
    ]


def test_whether_theory_agrees() -> None:
    def metric(value: float, low: float | None, high: float | None, theory: float) -> Metric:
        return Metric("m", value, "share", "", 10, low, high, theory)

    assert agrees(metric(0.5, 0.4, 0.6, 0.6))
    assert not agrees(metric(0.5, 0.4, 0.6, 0.61))
    assert agrees(metric(2.0, None, None, 2.0))
    with pytest.raises(ValueError, match="nothing to compare"):
        agrees(Metric("m", 1.0, "s", ""))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.5, "share", "50 %"),
        (1.0, "share", "100 %"),
        (0.9999, "share", "99.99 %"),
        (0.0002, "share", "0.02 %"),
        (0.0, "share", "0 %"),
        (None, "share", "-"),
        (1_500_000_000, "Roe", "1.5 KOII"),
        (-443_000_000, "Roe", "-0.443 KOII"),
        (2048, "bytes", "2 KiB"),
        (4_584_900, "us", "4,585 ms"),
        (10.83, "s", "10.8 s"),
        (2, "transactions", "2 transactions"),
    ],
)
def test_values_as_people_read_them(value: float | None, unit: str, text: str) -> None:
    assert with_unit(value, unit) == text


def test_words_for_what_there_is_and_for_what_there_is_not_yet() -> None:
    assert metric_title("detection") == "Wrong work found"
    assert metric_title("profit.lazy") == "Profit of lazy nodes in a round"
    assert metric_title("new_metric") == "New metric"
    assert part_of("profit.lazy") == "What each behaviour earns"
    assert part_of("new_metric") == "More"
    assert setting_title("population.lazy") == "lazy nodes (share of all)"
    assert setting_title("chain.loss") == "chain.loss"
    assert interval(0.5, 0.5, "s") == interval(None, 1.0, "s") == ""
    assert interval(0.25, 0.75, "share") == "25 to 75"


# --- comparing


def test_findings_do_not_differ_from_themselves(found: Findings) -> None:
    same = compared(found, found)
    assert same.same_tables
    assert not same.different
    assert (same.settings, same.missing, same.versions) == ((), (), ())
    assert {line.arms for line in same.lines} == {("koii-today",) * 2, ("hardened",) * 2}


def test_what_differs_between_two_experiments_is_said(found: Findings) -> None:
    experiment = small(seeds=1, population__fraudulent=0.5, population__lazy=0.0)
    other = findings_of(experiment, ThisProcess().play(experiment, experiment.jobs))
    seen = compared(found, other)
    assert not seen.same_tables
    assert ("hardened", "population.fraudulent.share", "0.25", "0.5") in seen.settings
    assert seen.different
    frauds = next(
        line for line in seen.lines if line.first.name == "wrong_work" and line.arms[0] == "hardened"
    )
    assert frauds.differs
    assert frauds.difference == pytest.approx(0.25)
    assert comparison_json(seen)["different"] is True


def test_arms_that_only_one_has_are_named(found: Findings, swept: Findings) -> None:
    seen = compared(found, swept)
    assert seen.lines == ()
    assert "hardened" in seen.missing
    assert not seen.different


# --- the public face


def test_a_scenario_is_played_in_one_line(tmp_path: Path) -> None:
    table = {name: value for name, value in TABLE.items() if name != "arms"}
    run = lab.run(table, {"population.lazy": [0.0, 0.5]}, seeds=1, rounds=1, out=tmp_path / "run")
    assert run.metrics["arm"].unique(maintain_order=True).to_list() == ["lazy 0", "lazy 0.5"]
    assert lab.load(tmp_path / "run").digests == run.digests
    assert lab.write_report(run, tmp_path / "page").exists()
    assert lab.run(table, {"population.lazy": [0.0, 0.5]}, seeds=1, rounds=1).digests == run.digests
    assert re.fullmatch("[0-9a-f]{64}", run.digests["votes"])
    assert len(lab.read("koii-today-vs-hardened", seeds=3).jobs) == 6
