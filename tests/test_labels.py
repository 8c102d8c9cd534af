"""The study of few labels: which clips keep their labels, what the commands say, and that the summary is that of its records."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from videokd.datasets.manifest import Clip, Manifest
from videokd.recipes.command_line import parse
from videokd.runs.run_settings import Distill, Teach

RESULTS = Path(__file__).resolve().parents[1] / "measurements" / "results"
SUMMARIES = sorted(RESULTS.glob("labels-20*.json"))
CLASSES, GROUPS, CLIPS = ("bow", "ride"), 25, 4
CHOSEN = {"steps": 540, "lr": 0.003, "mixup": 0.0, "alpha": 1.0, "temperature": 2.0, "beta": 0.25, "confidence": 0.5}
CHOSEN |= {"features": 1.0, "relations": 1.0}


@pytest.fixture(scope="module")
def labels_runs(load_measurement: Callable[[str], ModuleType]) -> ModuleType:
    return load_measurement("labels_runs")


@pytest.fixture(scope="module")
def labels_sum(load_measurement: Callable[[str], ModuleType]) -> ModuleType:
    return load_measurement("labels_sum")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A manifest like that of ucf101-6, without videos."""
    clips = []
    for label, name in enumerate(CLASSES):
        for group in range(1, GROUPS + 1):
            parts = ["test" if group in range(7 * s + 1, 7 * s + 8) else "train" for s in range(3)]
            for clip in range(CLIPS):
                video = f"{name}/v_g{group:02d}_c{clip}"
                digest = f"{label:02d}{group:02d}{clip:02d}".ljust(64, "0")
                clips.append(_clip(video, label, name, f"{name}/g{group:02d}", parts, digest))
    Manifest(tmp_path, tuple(clips), CLASSES).write()
    return tmp_path


def _clip(video: str, label: int, name: str, group: str, parts: list[str], digest: str) -> Clip:
    return Clip(
        video,
        f"{video}.mp4",
        label,
        name,
        group,
        *parts,
        "mpeg4",
        64,
        64,
        10,
        1.0,
        "{}",
        digest,
        digest,
        1,  # type: ignore[arg-type]
    )


def cell_of(labels_runs: ModuleType, data: Path, **changes: Any) -> Any:
    cell = labels_runs.LabelCell(data, 1, 0, "10", data / "out")
    return replace(cell, **changes)


@pytest.mark.parametrize("split", [1, 2, 3])
def test_labels_go_scene_by_scene_and_fewer_are_among_more(labels_runs: ModuleType, data: Path, split: int) -> None:
    before: set[str] = set()
    for labels, groups in labels_runs.GROUPS_WITH_LABELS.items():
        labelled, rest, tested = cell_of(labels_runs, data, split=split, labels=labels).parts
        assert len(labelled) == groups * CLIPS * len(CLASSES)
        assert len(labelled) + len(rest) == 18 * CLIPS * len(CLASSES)
        assert {clip.group for clip in labelled}.isdisjoint(clip.group for clip in (*rest, *tested))
        assert {clip.group for clip in rest}.isdisjoint(clip.group for clip in tested)
        assert all(clip.part(split) == "test" for clip in tested)
        assert before <= {clip.video_id for clip in labelled}
        before = {clip.video_id for clip in labelled}


def test_choosing_uses_no_test_clip(labels_runs: ModuleType, data: Path) -> None:
    parts = cell_of(labels_runs, data, choosing=True).parts
    assert all(clip.split1 == "train" for part in parts for clip in part)
    assert all(parts)
    groups = [{clip.group for clip in part} for part in parts]
    assert groups[0].isdisjoint(groups[1] | groups[2])
    assert groups[1].isdisjoint(groups[2])


def test_the_manifests_hide_the_labels(labels_runs: ModuleType, data: Path) -> None:
    cell = cell_of(labels_runs, data)
    with_labels, without = cell.manifests
    labelled, rest, tested = cell.parts
    manifest, hidden = Manifest.read(with_labels), Manifest.read(without)
    assert {clip.video_id for clip in manifest.select("train", split=1)} == {clip.video_id for clip in labelled}
    assert {clip.video_id for clip in manifest.select("test", split=1)} == {clip.video_id for clip in tested}
    assert hidden.class_names == ()
    assert [(clip.video_id, clip.label) for clip in hidden.clips] == [(clip.video_id, -1) for clip in rest]


@pytest.mark.parametrize("labels", ["5", "10", "25", "100"])
def test_every_way_of_learning_is_a_command_of_as_many_steps(labels_runs: ModuleType, data: Path, labels: str) -> None:
    cell = cell_of(labels_runs, data, labels=labels)
    teacher = parse(Teach, labels_runs.teacher_command(cell)[1:], verb="teach")
    assert teacher.freeze
    assert teacher.init == "imagenet"
    choice = {"iframe": {"hard": CHOSEN, "distilled": CHOSEN}}
    labelled, rest, _ = cell.parts
    for arm in labels_runs.ARMS:
        verb, *options = labels_runs.student_command(cell, "iframe", arm, choice)
        settings = parse(Distill, options, verb=verb)
        clips = len(labelled) + (len(rest) if settings.unlabelled else 0)
        steps = settings.optim.epochs * max(clips // settings.data.batch_size, 1)
        assert abs(steps - CHOSEN["steps"]) <= max(clips // settings.data.batch_size, 1)
        assert bool(settings.teachers) == (arm != "hard")
        assert bool(settings.unlabelled) == (arm in labels_runs.ON_ALL_CLIPS and labels != "100")
        assert (settings.objective.target_loss == "hard") == (arm == "pseudo")
        assert bool(settings.objective.feature_weight) == (arm == "features")
        assert bool(settings.objective.relation_weight) == (arm == "relations")
        assert len(settings.students) == (2 if arm in ("kl-mutual", "everything") else 1)


def cell(runs: dict[str, str], scenes: list[str]) -> dict[str, Any]:
    """{run: record} of one student with these hits, and the teacher's record with the scenes."""
    videos = {f"v{number}": scene for number, scene in enumerate(scenes)}
    records: dict[str, Any] = {"10/teacher": {"entries": {"iframe": {"hits": "1" * len(scenes)}}, "videos": videos}}
    return records | {run: {"entries": {"iframe": {"hits": hits}}} for run, hits in runs.items()}


def test_differences_are_paired_by_scene(labels_sum: ModuleType) -> None:
    scenes = ["a", "a", "b", "b", "c", "c"]
    cells = {number: cell({"10/iframe/kl": "111110", "10/iframe/hard": "101010"}, scenes) for number in range(2)}
    cells[2] = cell({"10/iframe/kl": "000000"}, scenes)  # has no other run: it does not count
    gain = labels_sum.difference(cells, "?", "10/iframe/kl", "10/iframe/hard")
    assert gain["cells"] == 2
    assert gain["top1_difference"]["value"] == pytest.approx(2 / 6)
    # a and b gain one of two, c nothing: whole scenes are drawn
    assert gain["top1_difference"]["low"] == pytest.approx(0)
    assert gain["top1_difference"]["high"] == pytest.approx(0.5)
    assert labels_sum.difference(cells, "?", "10/iframe/kl", "10/iframe/pseudo") is None


def test_mutual_students_count_one_by_one_and_teachers_fused(labels_sum: ModuleType) -> None:
    two = {"entries": {"a": {"hits": "11"}, "b": {"hits": "10"}, "fused": {"hits": "00"}, "a:exit1": {"hits": "00"}}}
    assert labels_sum.top1_of(two).tolist() == [1.0, 0.5]
    three = {"entries": {"iframe": {"hits": "11"}, "motion": {"hits": "00"}, "fused": {"hits": "10", "weights": {}}}}
    assert labels_sum.top1_of(three).tolist() == [1.0, 0.0]


@pytest.mark.skipif(not SUMMARIES, reason="the study has no summary yet")
def test_the_summary_in_the_repository_is_that_of_its_records(labels_sum: ModuleType) -> None:
    written = json.loads(SUMMARIES[-1].read_text())
    found = json.loads(json.dumps(labels_sum.summary(labels_sum.read_records(labels_sum.RECORDS))))
    assert [row["run"] for row in written["rows"]] == [row["run"] for row in found["rows"]]
    for before, again in zip(written["rows"], found["rows"], strict=True):
        assert before["cells"] == again["cells"]
        assert before["top1"] == pytest.approx(again["top1"], abs=0.003)
    for before, again in zip(written["comparisons"], found["comparisons"], strict=True):
        assert before["asked"] == again["asked"]
        assert before["top1_difference"] == pytest.approx(again["top1_difference"], abs=0.003)
