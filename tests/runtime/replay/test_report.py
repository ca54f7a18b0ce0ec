"""The report in a real browser, and what it is made of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.replay.batch import Job, Outcome, jobs, replay_many
from runtime.replay.options import ReplayOptions
from runtime.replay.report.stack import Panel, Times, stack
from runtime.replay.summary import Recorder
from runtime.replay.verdict import Replayed
from tests.runtime.replay.recording import Recording
from tests.runtime.replay.test_timeline import row

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("jinja2")
pytest.importorskip("plotly")

HOSTILE = "<script>alert(1)</script>&"
SPAN = "plot => plot.layout.xaxis.range"


def test_lines_break_where_nothing_was_recorded(cartpole: Bundle) -> None:
    """Ticks at 0.00, 0.01, 0.02, and after a gap at 1.00 and 1.01."""
    recorder = Recorder(cartpole.contract)
    for tick in (0, 1, 2, 100, 101):
        recorder(row(cartpole, tick, surprise=float(tick)))
    recorder.gap(0.02, 1.0, "telemetry")
    timeline = recorder.timeline()
    times = Times(timeline, rate_hz=100.0)
    assert times.time == pytest.approx([0.0, 0.01, 0.02, 0.03, 1.0, 1.01])
    assert times.edges == pytest.approx([0.0, 0.01, 0.02, 0.03, 1.0, 1.01, 1.02])
    assert times.line(timeline.series["surprise"].mean, "$blue", "s")["y"] == [0.0, 1.0, 2.0, None, 100.0, 101.0]
    band = replace(timeline.series["surprise"], low=np.zeros(5))
    shade, line = times.band(band, "$blue", "s")
    assert line["x"] == "$time"
    assert shade["x"] == pytest.approx([0.0, 0.01, 0.02, 0.02, 0.01, 0.0, None, 1.0, 1.01, 1.01, 1.0, None])
    assert shade["y"] == [0.0, 1.0, 2.0, 0.0, 0.0, 0.0, None, 100.0, 101.0, 0.0, 0.0, None]
    layout = stack([Panel("a", 100, [line]), Panel("b", 50, [line])], times, timeline.events)["layout"]
    assert [(s["x0"], s["x1"]) for s in layout["shapes"]] == [(0.02, 1.0)]


def test_a_bin_that_holds_a_gap_does_not_stretch_over_it(cartpole: Bundle) -> None:
    recorder = Recorder(cartpole.contract)
    for tick in range(3000):  # two ticks a bin; the gap is within one
        r = row(cartpole, tick)
        r.time_s += 50.0 * (tick >= 1001)
        recorder(r)
    times = Times(recorder.timeline(), rate_hz=100.0)
    assert [e for e in times.edges if 10.1 < e < 60.0] == []


def test_panels_fill_the_height_without_overlap(cartpole: Bundle) -> None:
    recorder = Recorder(cartpole.contract)
    recorder(row(cartpole, 0))
    panels = [Panel(str(h), h, []) for h in (50, 100, 150)]
    layout = stack(panels, Times(recorder.timeline(), 100.0), [])["layout"]
    domains = [layout[axis]["domain"] for axis in ("yaxis", "yaxis2", "yaxis3")]
    assert domains[-1][0] == pytest.approx(0.0)
    heights = [top - bottom for bottom, top in domains]
    assert heights == pytest.approx([h * heights[0] / 50 for h in (50, 100, 150)])
    assert all(below[1] < above[0] for above, below in pairwise(domains))
    assert layout["xaxis"]["anchor"] == "y3"


@pytest.fixture(scope="module")
def runs(kuka: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[Replayed]:
    """As recorded and with another K, a raw one that is impossible, and one with a name that must be escaped."""
    recording = Recording(kuka)
    recording.run(activation=1, ticks=230, seed=1)
    bag = recording.write(tmp_path_factory.mktemp("report") / "bag")
    options = ReplayOptions(faults=("lost:joint_position@0.5-0.7",))
    outcomes = replay_many([*jobs([bag], ReplayOptions()), *jobs([bag], options)], kuka)
    failed = Outcome(Job(Path("/bags") / HOSTILE.replace("/", ""), ReplayOptions()), None, f"no topic {HOSTILE}")
    return [Replayed(Path("a.onnx"), kuka.contract, o) for o in (*outcomes, failed)]


def test_what_a_bag_is_called_is_no_markup(runs: list[Replayed]) -> None:
    from runtime.replay.report.page import render

    text = render(HOSTILE, runs)
    assert "<title>&lt;script&gt;alert(1)&lt;/script&gt;&amp;</title>" in text
    assert HOSTILE not in text
    assert "http://" not in text
    assert "src=" not in text
    assert len(text) < 4e6


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    pytest.importorskip("playwright")
    from playwright.sync_api import sync_playwright

    from benchmarks.report_picture import find_chromium

    path = find_chromium()
    if path is None:
        assert not os.environ.get("CI"), "CI must look at the report: make browser"
        pytest.skip("there is no Chromium; make browser installs one, as root")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(runs: list[Replayed], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from runtime.replay.report.page import write_report

    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, "three replays", runs)
    return path


@pytest.fixture(scope="module")
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """Opened once; at the end it has said nothing on the console, and asked for nothing but itself."""
    page = browser.new_page(viewport={"width": 1366, "height": 800}, color_scheme="light")
    page.set_default_timeout(120_000)  # the machine may be busy
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url.split("#")[0]))
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-ready]")
    yield page
    assert said == []
    assert set(asked) == {report.as_uri()}
    page.close()


def figure(page: Page, what: str) -> Any:
    """Something of the figure that is shown."""
    return page.locator(".view:visible .figure").evaluate(what)


def test_it_opens_with_the_comparison_and_a_row_leads_to_its_details(page: Page) -> None:
    assert page.locator(".rows tbody tr").count() == 3
    assert page.locator(".failed").inner_text().strip().endswith(f"no topic {HOSTILE}")
    assert "is nearest to the recorded commands" in page.locator(".view:visible h2").inner_text()
    assert page.locator(".view:visible tr[data-joint]").count() == 7
    page.locator("tr[data-view=r0]").click()
    page.wait_for_selector("#r0[data-drawn]")
    checks = {c.split("\n")[-1] for c in page.locator("#r0 .value").all_inner_texts()}
    assert "identical" in checks
    assert page.locator(".view:visible").count() == 1
    assert page.url.endswith("#r0")
    panels = figure(page, "plot => Object.keys(plot.layout).filter((k) => k.startsWith('yaxis')).length")
    assert panels == 8
    assert page.locator("#r0 .figure .cartesianlayer .subplot").count() == panels
    assert page.locator("#r0 .figure .heatmaplayer image").count() >= 2
    drawn = figure(
        page, "plot => [...plot.querySelectorAll('.scatterlayer path.js-line')].map((p) => p.getAttribute('d'))"
    )
    assert len(drawn) >= 8
    assert all(path and "NaN" not in path for path in drawn)


def test_all_panels_zoom_together(page: Page) -> None:
    page.locator("tr[data-view=r0]").click()
    page.wait_for_selector("#r0[data-drawn]")
    page.locator("#r0 .all").click()
    whole = figure(page, SPAN)
    ticks = "plot => [...plot.querySelectorAll('.xtick text')].map((t) => t.textContent)"
    lines = "plot => [...plot.querySelectorAll('.scatterlayer path.js-line')].map((p) => p.getAttribute('d'))"
    labels_before, lines_before = figure(page, ticks), figure(page, lines)
    assert figure(page, "plot => Object.keys(plot.layout).filter((k) => k.startsWith('xaxis'))") == ["xaxis"]
    page.locator(".view:visible .figure").scroll_into_view_if_needed()
    box = page.locator(".view:visible .figure").bounding_box()
    assert box is not None
    left, width = box["x"] + 136, box["width"] - 136 - 16
    page.mouse.move(left + 0.25 * width, box["y"] + 200)  # in the panel of the commands
    page.mouse.down()
    page.mouse.move(left + 0.5 * width, box["y"] + 210, steps=5)
    page.mouse.up()
    page.wait_for_function(
        "(old) => document.querySelector('.view:not([hidden]) .figure').layout.xaxis.range[0] > old", arg=whole[0]
    )
    low, high = figure(page, SPAN)
    span = whole[1] - whole[0]
    assert low == pytest.approx(whole[0] + 0.25 * span, abs=0.01 * span)
    assert high == pytest.approx(whole[0] + 0.5 * span, abs=0.01 * span)
    assert figure(page, ticks) != labels_before
    changed = [a != b for a, b in zip(figure(page, lines), lines_before)]
    assert all(changed), "some panel kept its stretch of time"
    assert page.locator(".view:visible .window").inner_text() == f"{low:.2f} – {high:.2f} s"
    page.locator(".view:visible .later").click()
    page.wait_for_function(
        "(old) => document.querySelector('.view:not([hidden]) .figure').layout.xaxis.range[0] > old", arg=low
    )
    assert figure(page, SPAN) == pytest.approx([low + 0.8 * (high - low), high + 0.8 * (high - low)])
    page.locator(".view:visible .all").click()
    assert figure(page, SPAN) == pytest.approx(whole)


def test_a_moment_leads_to_its_time(page: Page) -> None:
    page.locator("tr[data-view=r1]").click()
    page.wait_for_selector("#r1[data-drawn]")
    moment = page.locator("#r1 tr.moment", has_text="command error").first
    time = float(moment.locator("[data-time]").get_attribute("data-time") or "nan")
    moment.locator("[data-time]").click()
    page.wait_for_function("() => document.querySelector('#r1 .figure').layout.shapes.some((s) => s.name === 'cursor')")
    assert figure(page, SPAN) == pytest.approx([time - 1.5, time + 1.5])
    assert figure(page, "plot => plot.layout.shapes.filter((s) => s.name === 'cursor').map((s) => s.x0)") == [time]
    joint = page.locator("#r1 .joint").input_value()
    assert joint == moment.get_attribute("data-joint")
    assert figure(
        page, "plot => [...new Set(plot.data.filter((t) => t.visible === true).map((t) => t.meta?.joint))]"
    ) == [joint]
    top = figure(page, "plot => plot.getBoundingClientRect().top")
    assert 0 <= top < 200
    assert page.url.endswith(f"#r1@{time:g}")
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    assert page.locator(".view:visible").get_attribute("id") == "r1"
    assert figure(page, SPAN) == pytest.approx([time - 1.5, time + 1.5])


def test_joints_events_and_themes_can_be_chosen(page: Page) -> None:
    page.locator("tr[data-view=r0]").click()
    page.wait_for_selector("#r0[data-drawn]")
    page.locator("#r0 tr[data-joint='lbr_iiwa_joint_5']:not(.moment)").click()
    assert page.locator("#r0 .joint").input_value() == "lbr_iiwa_joint_5"
    page.locator("#r0 .joint").select_option("lbr_iiwa_joint_2")
    assert page.locator("#r0 tr.on").get_attribute("data-joint") == "lbr_iiwa_joint_2"
    rows = page.locator("#r0 .events tbody tr:visible")
    everything = rows.count()
    page.locator("#r0 .chip[data-kind=request]").click()
    assert rows.count() == 2 < everything
    page.locator("#r0 .chip[data-kind='']").click()
    assert rows.count() == everything
    line = "plot => plot.data.find((t) => t.name === 'replayed').line.color"
    colours = []
    for theme in ("dark", "light"):
        page.locator("#theme").click()
        page.wait_for_selector(f"#r0[data-drawn={theme}]")
        colours.append((page.evaluate("getComputedStyle(document.body).backgroundColor"), figure(page, line)))
    assert colours == [("rgb(21, 22, 24)", "#4aa3df"), ("rgb(251, 251, 250)", "#0072b2")]
    assert figure(page, "plot => plot.data.find((t) => t.visible === true).meta.joint") == "lbr_iiwa_joint_2"


def test_it_reads_without_scripts(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("#r0").is_visible()
    assert "identical" in page.locator("#r0").inner_text()
    context.close()
