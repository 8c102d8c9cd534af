"""docs/scale.md says what was measured."""

from __future__ import annotations

import doctest
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tool(load_measurement: Callable[[str], ModuleType]) -> ModuleType:
    return load_measurement("scale")


def test_numbers_in_words(tool: ModuleType) -> None:
    assert doctest.testmod(tool).failed == 0
    assert doctest.testmod(tool).attempted > 0


def test_rows_are_what_the_files_say(tool: ModuleType) -> None:
    """Kinetics-700's rows, calculated once more from the files that the page names."""
    data, scale = (
        json.loads(max((ROOT / "measurements/results").glob(f"{kind}-20*.json")).read_text())
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
