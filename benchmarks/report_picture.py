"""A picture of the report of a replay, for the documentation: `python -m benchmarks.report_picture docs/report.png`.

Replays the bag of `make demo` (or another) and looks at the first screenful and the timelines in a headless Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from runtime.bundle import Bundle
from runtime.files import shipped_bundle, write_bytes
from runtime.replay.batch import jobs, replay_many
from runtime.replay.options import ReplayOptions
from runtime.replay.report.page import write_report
from runtime.replay.verdict import Replayed

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """A Chromium of this machine, or one that `playwright install chromium` has fetched; None if there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        with sync_playwright() as playwright:
            own = playwright.chromium.executable_path
        found = own if Path(own).is_file() else None
    return found


def main() -> None:
    """Replay, look, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="PNG file")
    parser.add_argument("--bag", type=Path, default=Path("runs/demo/bag"))
    parser.add_argument("--bundle", type=Path, default=shipped_bundle("kuka_reach"))
    parser.add_argument("--height", type=int, default=1310, help="pixels of the page")
    options = parser.parse_args()
    bundle = Bundle.load(options.bundle)
    (outcome,) = replay_many(jobs([options.bag], ReplayOptions()), bundle)
    if outcome.error:
        raise SystemExit(f"error: {outcome.error}")
    browser_path = find_chromium()
    if browser_path is None:
        raise SystemExit("error: there is no Chromium; apt-get install chromium, or playwright install chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_path = Path(folder) / "report.html"
        title = f"{'/'.join(options.bag.parts[-2:])} on {options.bundle.name}"
        write_report(page_path, title, [Replayed(options.bundle, bundle.contract, outcome)])
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1120, "height": options.height})
        page.goto(page_path.as_uri())
        page.wait_for_selector("html[data-ready]")
        write_bytes(options.output, page.screenshot())
        browser.close()


if __name__ == "__main__":
    main()
