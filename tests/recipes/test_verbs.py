"""Every verb, run as a user would, on a tiny dataset."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import videokd
from tests.small_runs import STUDENTS, TINY
from videokd.__main__ import main
from videokd.evaluation.scores import Scores
from videokd.models.students_file import load_students
from videokd.runs.checkpoint import load_checkpoint


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("videokd: ")]
    assert len(lines) == 1
    return lines[0]


def log_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_folder_has_what_it_should(teacher_runs: dict[str, Path]) -> None:
    names = {path.name for path in teacher_runs["motion"].iterdir()}
    assert {
        "config.yaml",
        "log.jsonl",
        "checkpoint.pt",
        "best.pt",
        "results.json",
        "scores-motion.npz",
        "pictures",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert list((teacher_runs["motion"] / "pictures").glob("streams-*.png"))
    assert not [name for name in names if name.startswith(".")]


def test_the_log_tells_every_part(student_run: Path) -> None:
    steps = [line for line in log_of(student_run) if "loss/total" in line]
    assert len(steps) == 2 * (len(steps) // 2)
    for line in steps:
        parts = [line[f"{student}/{part}"] for student in "ab" for part in ("ce", "kd", "mutual")]
        assert sum(parts) == pytest.approx(line["loss/total"], rel=1e-4)
    expected = {"lr", "gradient_norm", "samples_per_second", "data_wait_share", "resident_gib", "a/train_top1"}
    expected |= {f"agreement/{student}/{teacher}" for student in "ab" for teacher in ("iframe", "motion")}
    assert expected <= set(steps[0])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(student_run)).Reload()
    for name in steps[0].keys() - {"step", "epoch"}:
        shown = [event.value for event in events.Scalars(name)]
        assert shown == pytest.approx([line[name] for line in steps]), name
    assert [line["val/top1"] for line in log_of(student_run) if "val/top1" in line]


def test_scores_and_results(prepared: Path, student_run: Path) -> None:
    assert main(["evaluate", str(student_run), "--views=quick", "--workers=0", "--timed_videos=2", "--pictures=0"]) == 0
    results = json.loads((student_run / "results.json").read_text())
    assert set(results["entries"]) == {"a", "b", "fused"}
    assert results["entries"]["fused"]["role"] == "students fused"
    assert (results["versions"]["device"], results["versions"]["precision"]) == ("cpu", "fp32")
    for name, entry in results["entries"].items():
        scores = Scores.load(student_run / f"scores-{name}.npz")
        hits = (scores.logits.argmax(1) == scores.labels).mean()
        assert entry["metrics"]["top1"]["value"] == pytest.approx(hits)
        assert 0 < entry["latency_ms"]["total"] <= entry["latency_ms"]["p95"]
    one, other, both = (results["entries"][name]["parameters"] for name in ("a", "b", "fused"))
    assert one + other == both
    mean = (Scores.load(student_run / "scores-a.npz").logits + Scores.load(student_run / "scores-b.npz").logits) / 2
    assert np.allclose(Scores.load(student_run / "scores-fused.npz").logits, mean, atol=1e-5)


def test_full_views_are_ten_crops_of_each_segment(teacher_runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(teacher_runs["motion"], run)
    common = ["--workers=0", "--timed_videos=0", "--pictures=0", "--num_segments=3"]
    assert main(["evaluate", str(run), "--views=full", *common]) == 0
    full = json.loads((run / "results.json").read_text())["entries"]["motion"]["macs_per_video"]
    assert main(["evaluate", str(run), "--views=quick", *common]) == 0
    assert full == 10 * json.loads((run / "results.json").read_text())["entries"]["motion"]["macs_per_video"]


def test_fuse(teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = [f"--scores.{name}={run / f'scores-{name}.npz'}" for name, run in teacher_runs.items()]
    capsys.readouterr()
    assert main(["fuse", *scores, "--weights.iframe", "2", "--weights.motion", "1", "--format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    a, b = (Scores.load(run / f"scores-{name}.npz") for name, run in teacher_runs.items())
    expected = ((2 * a.logits + b.logits).argmax(1) == a.labels).mean()
    assert shown["top1"] == pytest.approx(expected)
    assert shown["weights"] == {"iframe": pytest.approx(2 / 3), "motion": pytest.approx(1 / 3)}

    assert main(["fuse", *scores, "--sweep", "--format=json", f"--out={tmp_path / 'fused'}"]) == 0
    swept = json.loads(capsys.readouterr().out)
    assert swept["top1"] >= max(shown["top1"], *swept["alone"].values())
    entry = json.loads((tmp_path / "fused" / "results.json").read_text())["entries"]["fused"]
    assert entry["role"] == "fused teachers"
    assert main(["fuse", *scores, "--space=probs"]) == 0
    assert "fused" in capsys.readouterr().out


def test_fuse_refuses(teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = f"--scores.iframe={teacher_runs['iframe'] / 'scores-iframe.npz'}"
    assert "no scores given" in refused(capsys, "fuse")
    assert "weights: motion (accepted: iframe)" in refused(capsys, "fuse", scores, "--weights.motion=1")
    assert "exclude each other" in refused(capsys, "fuse", scores, "--weights.iframe=1", "--sweep")
    assert "missing.npz" in refused(capsys, "fuse", "--scores.iframe=missing.npz")


def test_the_same_command_again_says_it_is_done(
    prepared: Path, teacher_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = teacher_runs["motion"]
    before = (run / "best.pt").read_bytes()
    command = ["teach", "--stream=motion", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={run}"]
    assert main([*command, *TINY]) == 0
    assert "trained already (2 epochs)" in capsys.readouterr().err
    assert (run / "best.pt").read_bytes() == before
    other = refused(capsys, *command, *TINY, "--optim.lr=0.5")
    assert "optim.lr 0.001, not 0.5" in other


def test_a_resumed_run_equals_an_uninterrupted_one(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videokd.stopping import StopSignal

    def command(out: Path) -> list[str]:
        teachers = [f"--teachers.{stream}={run}" for stream, run in teacher_runs.items()]
        return ["distill", f"--manifest={prepared}", f"--out={out}", STUDENTS, *teachers, *TINY, "--optim.dropout=0.2"]

    assert main(command(tmp_path / "whole")) == 0
    # Ctrl-C in the second step, in the middle of the first epoch
    looks = itertools.count()
    with monkeypatch.context() as patch:
        asked = property(lambda self: next(looks) >= 1, lambda self, value: None)
        patch.setattr(StopSignal, "requested", asked, raising=False)
        assert main(command(tmp_path / "parts")) == 130
    step = load_checkpoint(tmp_path / "parts" / "checkpoint.pt")["progress"]["step"]
    assert step > 0
    assert not (tmp_path / "parts" / "best.pt").exists()
    assert main(command(tmp_path / "parts")) == 0
    whole, parts = (load_checkpoint(tmp_path / name / "best.pt")["state"] for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    for one, other in zip(log_of(tmp_path / "whole"), log_of(tmp_path / "parts"), strict=True):
        assert one.get("loss/total") == other.get("loss/total")


def test_mutual_learning_without_teachers(prepared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["distill", f"--manifest={prepared}", f"--out={run}", STUDENTS, *TINY, "--optim.epochs=1"]) == 0
    line = log_of(run)[0]
    assert "a/mutual" in line
    assert "a/kd" not in line


def test_bf16_trains(prepared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["teach", "--stream=residual", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={run}"]
    assert (
        main([*command, *TINY, "--optim.epochs=1", "--precision=bf16", "--optim.ema=0.9", "--optim.clip_norm=1"]) == 0
    )
    assert np.isfinite(log_of(run)[-1].get("val/top1", np.nan))


def test_export_and_predict(
    exported: Path, clips: Path, student_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = {path.name for path in exported.iterdir()} - {"confusion.png"}  # of a run that another test has evaluated
    assert names == {"students.safetensors", "students.json", "README.md"}
    assert (exported / "README.md").read_text().startswith("---\nlicense: unknown\nlibrary_name: videokd\n")
    clip = next(clips.rglob("*.mp4"))
    capsys.readouterr()
    assert main(["predict", str(clip), str(clip), "--students", str(exported), "--format=json", "--top=3"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown) == 2
    assert [len(one["labels"]) for one in shown] == [3, 3]
    assert main(["predict", str(clip), f"--students={exported}", "--format=csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 5
    assert main(["predict", str(clip), f"--students={exported}"]) == 0
    assert rows[0]["label"] in capsys.readouterr().out

    students = load_students(exported)
    assert set(students.specs) == {"a", "b"}
    prediction = videokd.predict(clip, students, top=9)
    assert sum(label.probability for label in prediction.labels) == pytest.approx(1, abs=1e-5)
    assert prediction.labels[0].name == rows[0]["label"]
    assert set(prediction.seconds) == {"transcode", "read", "decode", "streams", "network"}


def test_predict_names_what_it_cannot_read(
    exported: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = next(clips.rglob("*.mp4"))
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert main(["predict", str(empty), str(clip), f"--students={exported}", "--format=json"]) == 2
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)) == 1
    assert "empty.mp4 is empty" in captured.err
    assert "required: FILES" in refused(capsys, "predict", f"--students={exported}")
    assert "top is 0" in refused(capsys, "predict", str(clip), f"--students={exported}", "--top=0")
    assert "nowhere" in refused(capsys, "predict", str(clip), f"--students={tmp_path / 'nowhere'}")


def test_predict_transcodes_what_has_no_vectors(exported: Path, make_clip, capsys: pytest.CaptureFixture[str]) -> None:
    clip = make_clip("mjpeg", container="avi", pixel_format="yuvj420p")
    capsys.readouterr()
    assert main(["predict", str(clip), f"--students={exported}", "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["seconds"]["transcode"] > 0
    assert "exports no motion vectors" in refused(
        capsys, "predict", str(clip), f"--students={exported}", "--transcode=never"
    )


def test_report(teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    assert main(["report", *map(str, teacher_runs.values()), "--save", str(page), "--title", "A test"]) == 0
    text = page.read_text()
    assert "A test" in text
    assert "data:image/png;base64" in text
    assert "required: RUNS" in refused(capsys, "report", f"--save={page}")
    assert "nowhere" in refused(capsys, "report", str(tmp_path / "nowhere"), f"--save={page}")


def test_show_and_inspect(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = next(clips.rglob("*.mp4"))
    picture = tmp_path / "streams.png"
    assert main(["show", str(clip), "--save", str(picture)]) == 0
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    capsys.readouterr()
    assert main(["inspect", str(clip), "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["codec"] == "h264"
    assert main(["inspect", str(clip)]) == 0
    assert "h264" in capsys.readouterr().out
    assert "accepted: a name ending in .png" in refused(capsys, "show", str(clip), "--save=x.jpg")
    assert "is not there" in refused(capsys, "show", "missing.mp4", "--save=x.png")
    assert "is a directory" in refused(capsys, "inspect", str(tmp_path))


def test_runs_that_are_none(
    prepared: Path, teacher_runs: dict[str, Path], student_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not a run folder" in refused(capsys, "evaluate", str(tmp_path))
    unfinished = tmp_path / "unfinished"
    shutil.copytree(teacher_runs["iframe"], unfinished)
    (unfinished / "best.pt").unlink()
    assert "has no best.pt" in refused(capsys, "export", str(unfinished), f"--out={tmp_path / 'x'}")
    common = [f"--manifest={prepared}", f"--out={tmp_path / 'y'}", STUDENTS, *TINY]
    assert "is a run on iframe (accepted: iframe for this run)" in refused(
        capsys, "distill", *common, f"--teachers.motion={teacher_runs['iframe']}"
    )
    for misspelt in ("ifram", "large_iframe", "iframes_large"):
        message = refused(capsys, "distill", *common, f"--teachers.{misspelt}={teacher_runs['iframe']}")
        assert (
            f"teachers: {misspelt} (accepted: iframe, motion, residual, rgb, or one of these with an ending" in message
        )
    assert "has several networks" in refused(capsys, "distill", *common, f"--teachers.motion={student_run}")
    assert not (tmp_path / "y").exists()


def test_a_checkpoint_of_another_architecture(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(teacher_runs["motion"], run)
    shutil.copy(teacher_runs["iframe"] / "checkpoint.pt", run / "checkpoint.pt")
    command = ["teach", "--stream=motion", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={run}", *TINY]
    assert "is of another architecture" in refused(capsys, *command)


def test_a_manifest_whose_files_moved(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(prepared / "manifest.parquet", moved)
    message = refused(capsys, "teach", "--stream=motion", f"--manifest={moved}", f"--out={tmp_path / 'run'}")
    assert "moved" in message
    assert not (tmp_path / "run").exists()


def test_other_classes(prepared: Path, teacher_runs: dict[str, Path], make_clip, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other"
    for name in ("run", "walk"):
        for group in (1, 2):
            (other / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(make_clip("mpeg4", seed=group), other / name / f"clip_g{group}_c1.mp4")
    assert main(["prepare", "folder", str(other), f"--out={tmp_path / 'two'}", "--short-side=64", "--jobs=1"]) == 0
    message = refused(capsys, "evaluate", str(teacher_runs["motion"]), f"--manifest={tmp_path / 'two'}")
    assert "knows 9 classes" in message


def test_a_clip_that_breaks_after_preparing_names_itself(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(prepared, broken)
    for clip in broken.rglob("*.mp4"):
        size = clip.stat().st_size
        clip.write_bytes(b"\0" * size)
    command = [
        "teach",
        "--stream=motion",
        "--backbone=test_resnet",
        f"--manifest={broken}",
        f"--out={tmp_path / 'run'}",
        *TINY,
    ]
    for workers in ("0", "1"):
        message = refused(capsys, *command, f"--data.workers={workers}")
        assert ".mp4 cannot be read as a video" in message


def test_a_full_disk(
    prepared: Path, clips: Path, tiny_disk: Path, tmp_path: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["teach", "--stream=motion", "--backbone=resnet10t", f"--manifest={prepared}", *TINY]
    assert "could not be written" in refused(capsys, *command, f"--out={tiny_disk / 'run'}")
    assert not list(tiny_disk.rglob("*.pt"))
    shutil.rmtree(tiny_disk / "run", ignore_errors=True)
    (tiny_disk / "filler").write_bytes(b"\0" * 900_000)
    assert str(tiny_disk) in refused(capsys, "prepare", "folder", str(clips), f"--out={tiny_disk / 'p'}", "--jobs=1")
    assert str(tiny_disk) in refused(capsys, "show", str(next(clips.rglob("*.mp4"))), f"--save={tiny_disk / 'x.png'}")
    assert not list(tiny_disk.rglob("*.png"))
