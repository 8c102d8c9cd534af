"""`videokd evaluate` stopped, repeated, and on both parts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from videokd.__main__ import main
from videokd.datasets.manifest import Manifest
from videokd.evaluation import protocol
from videokd.evaluation.scores import Scores

QUICK = ("--views=quick", "--workers=0", "--timed_videos=0", "--batch_size=2")


@pytest.fixture
def run(teacher_runs: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(teacher_runs["motion"], tmp_path / "motion")
    for path in (*(tmp_path / "motion").glob("scores*"), tmp_path / "motion" / "results.json"):
        path.unlink()
    return tmp_path / "motion"


def counted(monkeypatch: pytest.MonkeyPatch, *, stop_after: int | None = None) -> list[int]:
    """How many videos each batch that is computed has; Ctrl-C after some."""
    batches: list[int] = []
    real = protocol.predict_batches

    def predict(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for logits, labels in real(*args, **kwargs):
            if len(batches) == stop_after:
                raise KeyboardInterrupt
            batches.append(len(labels))
            yield logits, labels

    monkeypatch.setattr(protocol, "predict_batches", predict)
    return batches


def test_a_stopped_evaluation_resumes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "whole")
    assert main(["evaluate", str(tmp_path / "whole"), *QUICK]) == 0
    whole = Scores.load(tmp_path / "whole" / "scores-motion.npz")
    with monkeypatch.context() as patch:
        assert counted(patch, stop_after=2) == []
        assert main(["evaluate", str(run), *QUICK]) == 130
    assert not list(run.glob("scores-*"))
    batches = counted(monkeypatch)
    capsys.readouterr()
    assert main(["evaluate", str(run), *QUICK]) == 0
    assert f"resumes after 4 of {len(whole)} videos" in capsys.readouterr().err
    assert sum(batches) == len(whole) - 4
    again = Scores.load(run / "scores-motion.npz")
    assert again.video_ids == whole.video_ids
    assert np.allclose(again.logits, whole.logits, atol=1e-5)
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("change", ["weights", "views", "clips", "precision"])
def test_what_was_scored_otherwise_is_not_resumed(
    run: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    with monkeypatch.context() as patch:
        counted(patch, stop_after=2)
        assert main(["evaluate", str(run), *QUICK]) == 130
    options = list(QUICK)
    if change == "weights":
        saved = torch.load(run / "best.pt", weights_only=True)
        name, values = next((n, v) for n, v in saved["payload"]["state"].items() if v.is_floating_point())
        saved["payload"]["state"][name] = values + 1
        torch.save(saved, run / "best.pt")
    elif change == "views":
        options.append("--num_segments=3")
    elif change == "precision":
        options.append("--precision=bf16")
    else:
        shutil.copytree(prepared, tmp_path / "data")
        manifest = Manifest.read(tmp_path / "data")
        first = next(clip for clip in manifest.clips if clip.split1 == "test")
        other = next(clip for clip in manifest.clips if clip.sha256 != first.sha256)
        content = ("path", "num_frames", "seconds", "index", "sha256", "bytes", "source_sha256")
        changed = replace(first, **{name: getattr(other, name) for name in content})
        replace(manifest, clips=tuple(changed if clip is first else clip for clip in manifest.clips)).write()
        options.append(f"--manifest={tmp_path / 'data'}")
    batches = counted(monkeypatch)
    assert main(["evaluate", str(run), *options]) == 0
    assert sum(batches) == len(Scores.load(run / "scores-motion.npz"))


def test_a_finished_evaluation_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = counted(monkeypatch)
    assert main(["evaluate", str(run), *QUICK]) == 0
    videos = sum(batches)
    before = (run / "results.json").read_bytes()
    capsys.readouterr()
    assert main(["evaluate", str(run), *QUICK]) == 0
    told = capsys.readouterr().err
    assert "already evaluated" in told
    assert "motion: top-1" in told
    assert (run / "results.json").read_bytes() == before
    assert sum(batches) == videos
    # Other figures from the same scores, without scoring again
    assert main(["evaluate", str(run), *QUICK, "--pictures=2"]) == 0
    assert len(json.loads((run / "results.json").read_text())["examples"]) == 2
    assert sum(batches) == videos
    # Nothing is taken for granted: scores that are gone are made again
    (run / "scores-motion.npz").unlink()
    assert main(["evaluate", str(run), *QUICK, "--pictures=1"]) == 0
    assert sum(batches) == 2 * videos


def test_each_part_has_its_own_files(run: Path, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), *QUICK, "--pictures=1"]) == 0
    of_test = {path: path.read_bytes() for path in (run / "results.json", run / "scores-motion.npz")}
    pictures = sorted((run / "pictures").iterdir())
    assert main(["evaluate", str(run), *QUICK, "--part=val", "--pictures=1"]) == 0
    assert "motion: top-1 on val" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in of_test} == of_test
    assert set(pictures) < set((run / "pictures").iterdir())
    manifest = Manifest.read(prepared)
    for part, name in (("test", "scores-motion.npz"), ("val", "scores-val-motion.npz")):
        ids = {clip.video_id for clip in manifest.select(part, split=1)}  # type: ignore[arg-type]
        assert set(Scores.load(run / name).video_ids) == ids
    assert json.loads((run / "results-val.json").read_text())["dataset"]["part"] == "val"

    fuse = ["fuse", f"--scores.motion={run / 'scores-val-motion.npz'}", "--sweep", f"--out={run.parent / 'fused'}"]
    capsys.readouterr()
    assert main(fuse) == 0
    assert "warning" not in capsys.readouterr().err
    assert json.loads((run.parent / "fused" / "results-val.json").read_text())["dataset"]["part"] == "val"
    assert (run.parent / "fused" / "scores-val-fused.npz").is_file()
    assert main(["fuse", f"--scores.motion={run / 'scores-motion.npz'}", "--sweep"]) == 0
    assert "has scores of the test part" in capsys.readouterr().err
    for folder in (run, run.parent / "fused"):
        assert main(["report", str(folder), f"--save={run.parent / 'report.html'}"]) == 0


def test_scores_that_results_do_not_describe_are_scored_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second evaluation that ends between its scores and its results leaves new scores beside old results."""
    assert main(["evaluate", str(run), *QUICK]) == 0
    whole = Scores.load(run / "scores-motion.npz").logits
    with monkeypatch.context() as patch:

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(protocol, "write_results", interrupted)
        assert main(["evaluate", str(run), *QUICK, "--num_segments=1"]) == 130
    assert not np.allclose(Scores.load(run / "scores-motion.npz").logits, whole)
    capsys.readouterr()
    for command in (
        ["report", str(run), f"--save={tmp_path / 'page.html'}"],
        ["fuse", f"--scores.motion={run / 'scores-motion.npz'}"],
    ):
        assert main(command) == 2
        assert "is not the file that the results beside it describe" in capsys.readouterr().err
    assert main(["evaluate", str(run), *QUICK]) == 0
    assert "already evaluated" not in capsys.readouterr().err
    assert np.allclose(Scores.load(run / "scores-motion.npz").logits, whole, atol=1e-5)
    assert main(["report", str(run), f"--save={tmp_path / 'page.html'}"]) == 0
