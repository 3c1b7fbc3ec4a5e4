"""How soon the page answers a click while a scan is segmented, on the computer that does both.

    python -m benchmarks.page [SCAN] --clicks 50

A click on *Dark* goes to the server and comes back; it is counted until the browser shows it, first with
nothing else to do, then while ``lls segment`` runs. Wanted: under 100 ms. Without SCAN one is made.
Needs the extras gui, cpu and dev, and Chromium.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
# Clicks in the page's own script, so that the driver's time does not count.
CLICK = """async () => {
  const begun = performance.now();
  const shown = new Promise((done) => new MutationObserver((_, observer) => {
    observer.disconnect();
    done(performance.now());
  }).observe(document.body, { attributes: true, attributeFilter: ['class'] }));
  document.querySelector('[role=switch]').click();
  return (await shown) - begun;
}"""


@contextmanager
def served(store: Path, root: Path) -> Iterator[str]:
    """Serve the page; gives its address."""
    command = [sys.executable, "-m", "cli", "gui", "--no-browser", "--store", str(store), "--root", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def clicks(page: Any, count: int) -> list[float]:
    """Return how long each click took, in ms."""
    return [page.evaluate(CLICK) for _ in range(count)]


def summary(times: list[float]) -> dict[str, float]:
    """Return median and 95th percentile in ms."""
    return {
        "median_ms": round(float(np.median(times)), 1),
        "p95_ms": round(float(np.percentile(times, 95)), 1),
    }


def measure(scan: Path, count: int, folder: Path) -> dict[str, Any]:
    """Return what clicks take with nothing else to do, and while the scan is segmented."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with served(folder / "store", scan.parent) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(address)

        field = page.get_by_label("or its path on this computer")
        field.fill(str(scan))
        field.press("Enter")
        page.get_by_role("radio").first.wait_for()
        alone = clicks(page, count)
        page.get_by_role("button", name="Segment", exact=True).click()
        page.get_by_text("segmenting").wait_for()
        busy = clicks(page, count)
        running = page.get_by_text("segmenting").count() > 0
        browser.close()
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "alone": summary(alone),
        "busy": summary(busy),
        "busy_all_along": running,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scan", type=Path, nargs="?")
    parser.add_argument("--clicks", type=int, default=50)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lls-page-") as temporary:
        folder = Path(temporary)
        scan = given.scan.resolve() if given.scan else folder / "scan" / "dicom"
        if given.scan is None:
            make = [sys.executable, "-m", "cli", "phantom", "-o", str(scan.parent), "--size", "256"]
            subprocess.run([*make, "--spacing", "1.875"], check=True, stdout=subprocess.DEVNULL)
        print(json.dumps(measure(scan, given.clicks, folder), indent=2))


if __name__ == "__main__":
    main()
