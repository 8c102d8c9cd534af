"""docs/scale.md says what was measured."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("scale")


def test_the_page_is_that_of_the_results() -> None:
    command = [sys.executable, str(ROOT / "tools" / "scale"), "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_numbers_in_words(tool: ModuleType) -> None:
    assert doctest.testmod(tool).failed == 0
    assert doctest.testmod(tool).attempted > 0


def test_rows_are_what_the_files_say(tool: ModuleType) -> None:
    """Kinetics-700's rows, calculated once more from the files that the page names."""
    data, scale = (
        json.loads(max((ROOT / "tools/results").glob(f"{kind}-20*.json")).read_text())
        for kind in ("bench_data", "bench_scale")
    )
    hours = data["whole_datasets"]["kinetics700"]["mpeg4"]["core_hours"]
    cells = next(line for line in PAGE.splitlines() if line.startswith("| Kinetics-700 | 650,000")).split(" | ")
    assert float(cells[3].replace(",", "")) == pytest.approx(hours, rel=0.01)
    assert cells[5] == tool.duration(hours * 3600 / min(data["jobs"]["two_over_one"] / 2, 1) / 64)
    read = 650_000 * scale["manifest"]["read_us_per_clip"] / 1e6
    again = next(line for line in PAGE.splitlines() if line.startswith("| Kinetics-700 |") and "650,000" not in line)
    assert again.split(" | ")[2] == tool.duration(read)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


def test_a_stale_page_is_noticed(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "scale.md"
    page.write_text(PAGE.replace("| UCF101 | 13,320", "| UCF101 | 13,321"))
    monkeypatch.setattr(tool, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["scale", "--check"])
    assert tool.main() == 1
    monkeypatch.setattr(sys, "argv", ["scale"])
    assert tool.main() == 0
    assert page.read_text() == PAGE
