"""Students with shallow exits: what `evaluate` says of them, and leaving by them in `predict`."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import videokd
from tests.small_runs import STUDENTS, TINY
from videokd.__main__ import main
from videokd.evaluation.exits import PathToExit, cost_of, path_to
from videokd.evaluation.scores import Scores
from videokd.models.exits import DEEPEST
from videokd.models.students_file import load_students
from videokd.runs.run_folder import load_run

EXITS = ("exit1", "exit2", "exit3")
SHORT = (*TINY, "--optim.epochs=1", "--data.val_fraction=0")


@pytest.fixture(scope="module")
def run(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exits") / "run"
    assert main(["distill", f"--manifest={prepared}", f"--out={out}", STUDENTS, *SHORT, "--objective.exits"]) == 0
    assert main(["evaluate", str(out), "--views=quick", "--workers=0", "--timed_videos=1", "--pictures=0"]) == 0
    return out


@pytest.fixture(scope="module")
def results(run: Path) -> dict[str, dict]:
    return json.loads((run / "results.json").read_text())


def test_every_exit_and_their_ensemble_are_entries(run: Path, results: dict[str, dict]) -> None:
    entries = results["entries"]
    expected = [f"{s}{e}" for s in "ab" for e in ("", *(f":{name}" for name in EXITS), ":ensemble")]
    assert set(entries) == {*expected, "fused"}
    for student in "ab":
        own = [entries[f"{student}:{name}"] for name in EXITS] + [entries[student]]
        for key in ("parameters", "macs_per_video"):
            assert all(one[key] < other[key] for one, other in itertools.pairwise(own)), key
            assert entries[f"{student}:ensemble"][key] > entries[student][key]
        assert {entry["role"] for entry in own[:3]} == {"exit"}
        assert entries[f"{student}:exit1"]["latency_ms"]["network"] > 0
    all_of_a = [Scores.load(run / f"scores-a{end}.npz").logits for end in ("", "-exit1", "-exit2", "-exit3")]
    assert np.allclose(Scores.load(run / "scores-a-ensemble.npz").logits, np.mean(all_of_a, axis=0), atol=1e-5)
    a, b = (Scores.load(run / f"scores-{name}.npz").logits for name in "ab")
    assert np.allclose(Scores.load(run / "scores-fused.npz").logits, (a + b) / 2, atol=1e-5)


def test_what_an_exit_costs_is_what_lies_before_it(run: Path) -> None:
    students = load_run(run).students
    view = {"iframe": torch.zeros(1, 1, 3, 32, 32, dtype=torch.uint8)}
    network, exits = students.members["a"], students.exits["a"]
    before = [getattr(network.backbone, name) for name in ("conv1", "bn1", "layer1", "layer2")]
    expected = sum(p.numel() for module in (*before, exits.exit2) for p in module.parameters())
    assert cost_of(path_to(students, "a:exit2"), view, num_views=3).parameters == expected
    once, thrice = (cost_of(path_to(students, "a:exit2"), view, num_views=v).macs_per_video for v in (1, 3))
    assert thrice == 3 * once
    torch.testing.assert_close(PathToExit(students, "a", stop=DEEPEST)(view), network(view), rtol=1e-4, atol=1e-5)


def test_the_curve_goes_from_cheap_to_whole(run: Path, results: dict[str, dict]) -> None:
    curves = results["early_exit"]
    assert set(curves) == {"a", "b", "fused"}
    for name, points in curves.items():
        thresholds, costs = ([point[key] for point in points] for key in ("threshold", "macs_per_video"))
        assert thresholds == sorted(thresholds)
        assert thresholds[-1] == 1.0
        assert costs == sorted(costs)
        assert points[-1]["top1"] == pytest.approx(results["entries"][name]["metrics"]["top1"])
        assert points[-1]["exits"][DEEPEST] == 1.0
        assert all(sum(point["exits"].values()) == pytest.approx(1) for point in points)
    # one point by hand: who leaves by which exit, what that costs, and how often it is right
    scores = {
        name: Scores.load(run / f"scores-a{end}.npz")
        for name, end in zip(("deepest", *EXITS), ("", "-exit1", "-exit2", "-exit3"), strict=True)
    }
    point = curves["a"][0]
    right, left_by = 0, []
    for video, label in enumerate(scores["deepest"].labels):
        for name in (*EXITS, "deepest"):
            logits = scores[name].logits[video].astype(np.float64)
            shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            if shares.max() > point["threshold"] or name == "deepest":
                left_by.append(name)
                right += int(logits.argmax() == label)
                break
    assert point["top1"]["value"] == pytest.approx(right / len(left_by))
    assert point["exits"] == {name: pytest.approx(left_by.count(name) / len(left_by)) for name in (*EXITS, "deepest")}


def test_best_keeps_the_exits_and_an_export_only_if_asked(run: Path, tmp_path: Path) -> None:
    assert set(load_run(run).students.exits) == {"a", "b"}
    assert main(["export", str(run), f"--out={tmp_path / 'without'}"]) == 0
    assert main(["export", str(run), f"--out={tmp_path / 'with'}", "--exits"]) == 0
    assert not load_students(tmp_path / "without").exits
    assert "exits" not in json.loads((tmp_path / "without" / "students.json").read_text())
    kept = load_students(tmp_path / "with")
    assert {name: exits.names for name, exits in kept.exits.items()} == {"a": EXITS, "b": EXITS}


def test_predict_leaves_early(
    run: Path, exported: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, clip = tmp_path / "with", str(next(clips.rglob("*.mp4")))
    assert main(["export", str(run), f"--out={folder}", "--exits"]) == 0

    def shown(*options: str) -> str:
        capsys.readouterr()
        assert main(["predict", clip, f"--students={folder}", *options]) == 0
        return capsys.readouterr().out

    first = json.loads(shown("--format=json", "--exit_threshold=0"))[0]
    assert first["exits"] == {"a": "exit1", "b": "exit1"}
    last = json.loads(shown("--format=json", "--exit_threshold=1"))[0]
    assert last["exits"] == {"a": "deepest", "b": "deepest"}
    plain = json.loads(shown("--format=json"))[0]
    assert plain["exits"] == {}
    assert [label["probability"] for label in last["labels"]] == pytest.approx(
        [label["probability"] for label in plain["labels"]], abs=1e-5
    )
    assert "a by exit1, b by exit1" in shown("--exit-threshold=0")
    rows = list(csv.DictReader(io.StringIO(shown("--format=csv", "--exit_threshold=0"))))
    assert {row["exit_a"] for row in rows} == {"exit1"}
    students = load_students(folder)
    assert videokd.predict(clip, students, exit_threshold=0.0).exits == first["exits"]

    assert main(["predict", clip, f"--students={folder}", "--exit_threshold=2"]) == 2
    assert "exit_threshold is 2" in capsys.readouterr().err
    assert main(["predict", clip, f"--students={exported}", "--exit_threshold=0.9"]) == 2
    assert "have no exits to leave by" in capsys.readouterr().err


def test_what_has_no_exits_cannot_keep_them(
    student_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(student_run), f"--out={tmp_path / 'x'}", "--exits"]) == 2
    assert "has no exits to keep" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
