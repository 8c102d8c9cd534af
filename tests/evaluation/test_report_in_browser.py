"""The report in a browser: it loads nothing, complains of nothing, and prints."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imsave

from tests.evaluation.made_up_runs import made_up_exits, made_up_log, made_up_predictions, made_up_run
from videokd.evaluation.report import write_report

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--window-size=1280,900"),
)


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made_up_run(tmp_path_factory.mktemp("runs") / "demo")
    made_up_log(folder)
    made_up_predictions(folder)
    made_up_exits(folder)
    (folder / "pictures").mkdir()
    for name in ("streams-01-Archery", "streams-02-Biking"):
        imsave(folder / "pictures" / f"{name}.png", np.zeros((40, 60, 3), np.uint8))
    return write_report([folder], folder.parent / "report.html")


def opened(browser: str, page: Path, profile: Path, *options: str) -> tuple[str, list[str]]:
    """What the browser prints, and the lines of the page's console."""
    command = [browser, *FLAGS, f"--user-data-dir={profile}", *options, page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_it_loads_nothing_and_complains_of_nothing(browser: str, page: Path, tmp_path: Path) -> None:
    text, console = opened(browser, page, tmp_path / "profile", "--dump-dom")
    assert "Early exit" in text
    assert not console


def test_what_would_be_loaded_from_elsewhere_is_refused(browser: str, page: Path, tmp_path: Path) -> None:
    worse = tmp_path / "worse.html"
    worse.write_text(page.read_text(encoding="utf-8").replace("<main>", '<main><img src="https://example.org/a.png">'))
    _, console = opened(browser, worse, tmp_path / "profile", "--dump-dom")
    assert any("Content Security Policy" in line for line in console)


def test_it_prints(browser: str, page: Path, tmp_path: Path) -> None:
    opened(browser, page, tmp_path / "profile", f"--print-to-pdf={tmp_path / 'report.pdf'}")
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert 2 <= content.count(b"/Type /Page\n") <= 12
