"""The study's summary is what its records say, and its bootstrap does what it is said to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SUMMARIES = sorted((ROOT / "tools/results").glob("study-20*.json"))


@pytest.fixture(scope="module")
def study_sum(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("study_sum")


def test_the_summary_in_the_repository_is_that_of_its_records(study_sum: ModuleType) -> None:
    (path,) = SUMMARIES[-1:]
    written = json.loads(path.read_text())
    found = json.loads(json.dumps(study_sum.summary()))
    assert written.pop("date") in path.name
    assert written.keys() == found.keys()
    assert [written[key] for key in ("cells", "videos", "groups")] == [
        found[key] for key in ("cells", "videos", "groups")
    ]
    for before, again in zip(written["rows"], found["rows"], strict=True):
        assert (before["run"], before["entry"], before["cells"]) == (again["run"], again["entry"], again["cells"])
        assert before["top1"].keys() == again["top1"].keys()
        for dataset, interval in before["top1"].items():
            assert interval == pytest.approx(again["top1"][dataset], abs=0.003)
    for before, again in zip(written["comparisons"], found["comparisons"], strict=True):
        assert before["asked"] == again["asked"]
        for dataset, interval in before["top1_difference"].items():
            assert interval == pytest.approx(again["top1_difference"][dataset], abs=0.003)


def cell(hits: dict[tuple[str, str], str], groups: list[str]) -> dict[str, Any]:
    runs: dict[str, Any] = {"teachers": {"entries": {}, "videos": {f"v{n}": group for n, group in enumerate(groups)}}}
    for (run, entry), digits in hits.items():
        runs.setdefault(run, {"entries": {}})["entries"][entry] = {"hits": digits}
    return runs


def test_differences_are_paired_and_drawn_by_group(study_sum: ModuleType) -> None:
    groups = ["a"] * 5 + ["b"] * 5
    better = cell({("x", "fused"): "1111111111", ("y", "fused"): "1111100000"}, groups)
    pools = {"one": study_sum.Pool([better])}
    gain = study_sum.difference(pools, "x over y", ("x", "fused"), ("y", "fused"))["top1_difference"]["one"]
    assert gain["value"] == pytest.approx(0.5)
    assert (gain["low"], gain["high"]) == (
        0,
        1,
    )  # one group gains nothing, the other everything: both may be drawn twice


def test_a_run_counts_in_the_cells_that_have_it(study_sum: ModuleType) -> None:
    groups = ["a", "b"]
    with_extra = cell({("x", "fused"): "11", ("extra", "fused"): "10"}, groups)
    without = cell({("x", "fused"): "00"}, groups)
    pools = {"one": study_sum.Pool([with_extra, without]), "two": study_sum.Pool([without])}
    found = study_sum.difference(pools, "extra over x", ("extra", "fused"), ("x", "fused"))
    assert found["cells"] == {"one": 1}
    assert found["top1_difference"].keys() == {"one"}
    assert found["top1_difference"]["one"]["value"] == pytest.approx(-0.5)
    assert study_sum.difference(pools, "z over x", ("z", "fused"), ("x", "fused")) is None
