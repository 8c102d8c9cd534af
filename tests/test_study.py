"""The study's summary is what its records say, and its bootstrap does what it is said to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from videokd.recipes.command_line import parse
from videokd.runs.run_settings import Distill, Teach

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "measurements" / "results"
SUMMARIES = sorted(RESULTS.glob("study-20*.json"))


@pytest.fixture(scope="module")
def study_sum(load_measurement: Callable[[str], ModuleType]) -> ModuleType:
    return load_measurement("study_sum")


def test_the_summary_in_the_repository_is_that_of_its_records(study_sum: ModuleType) -> None:
    (path,) = SUMMARIES[-1:]
    written = json.loads(path.read_text())
    found = json.loads(json.dumps(study_sum.summary()))
    assert written.pop("date") in path.name
    assert written.keys() - {"command", "machine", "versions"} == found.keys()
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


def cell(hits: dict[tuple[str, str], str], groups: list[str], dataset: str = "ucf101-6") -> dict[str, Any]:
    videos = {f"v{n}": group for n, group in enumerate(groups)}
    runs: dict[str, Any] = {"teachers": {"dataset": dataset, "entries": {}, "videos": videos}}
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


def test_people_are_drawn_with_all_their_actions_and_scenes_by_class(study_sum: ModuleType) -> None:
    groups = ["wave/s1", "clap/s1", "wave/s2", "clap/s2"]
    hits = {("x", "fused"): "1100"}
    assert study_sum.Pool([cell(hits, groups, "utd-mhad-5")]).num_groups == 2
    assert study_sum.Pool([cell(hits, groups, "ucf101-6")]).num_groups == 4


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


def test_the_commands_of_every_run_are_accepted(load_measurement: Callable[[str], ModuleType]) -> None:
    study = load_measurement("study_runs")
    cell = study.Cell("utd-mhad-5", Path("data"), split=1, seed=0, out=Path("runs"))
    choice = json.loads(max(RESULTS.glob("study_choice-20*.json")).read_text())
    learned = {run: study.distill_commands(cell, run, choice) for run in (*study.CORE, *study.EXTRAS)}
    for run, commands in learned.items():
        for verb, *options in commands:
            settings = parse(Distill, options, verb=verb)
            assert settings.out.startswith(f"runs/utd-mhad-5-1-0/{run}")
            assert bool(settings.teachers) == (run not in study.WITHOUT_TEACHERS)
    assert len(learned["own"]) == 3
    for stream in study.STREAMS:
        verb, *options = study.teach_command(cell, stream)
        assert parse(Teach, options, verb=verb).optim.epochs == 150
    ((_, *once),), ((_, *longer),) = learned["fused"], learned["fused-longer"]
    assert parse(Distill, longer, verb="distill").optim.epochs == 2 * parse(Distill, once, verb="distill").optim.epochs


def test_the_table_of_runs_is_sorted_and_complete(load_measurement: Callable[[str], ModuleType]) -> None:
    table = load_measurement("study_records")
    names = [
        (record["dataset"], record["split"], record["seed"], record["run"])
        for record in map(json.loads, table.RECORDS.read_text().splitlines())
    ]
    assert names == sorted(set(names))
    cells = table.read_records(table.RECORDS)
    assert sum(len(runs) for runs in cells.values()) == len(names)


def test_a_run_is_added_or_replaced(load_measurement: Callable[[str], ModuleType], tmp_path: Path) -> None:
    table = load_measurement("study_records")
    file, key = tmp_path / "again" / "runs.jsonl", table.CellKey("ucf101-6", 1, 0)
    assert table.read_records(file) == {}
    table.add_record(file, key, "hard", '{"seconds": 1}')
    table.add_record(file, table.CellKey("ucf101-6", 1, 1), "fused", '{"seconds": 2}')
    table.add_record(file, key, "fused", '{"seconds": 3}')
    table.add_record(file, key, "hard", '{"seconds": 4}')
    found = table.read_records(file)
    assert {str(cell): {run: each["seconds"] for run, each in runs.items()} for cell, runs in found.items()} == {
        "ucf101-6-1-0": {"fused": 3, "hard": 4},
        "ucf101-6-1-1": {"fused": 2},
    }
    assert len(file.read_text().splitlines()) == 3


def test_processes_add_runs_at_the_same_time(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from study_records import CellKey, add_record\n"
        "for number in range(20):\n"
        "    add_record(Path(sys.argv[2]), CellKey('x', 1, int(sys.argv[3])), f'run{number}', '{}')\n"
    )
    file = tmp_path / "runs.jsonl"
    command = [sys.executable, "-c", script, str(ROOT / "measurements"), str(file)]
    running = [subprocess.Popen([*command, str(seed)]) for seed in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert len(file.read_text().splitlines()) == 40
