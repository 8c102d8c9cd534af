"""Clips without labels: prepared, trained on beside labelled ones, and kept out of everything that needs a label."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.rank_processes import ended, start_ranks
from tests.small_runs import TINY
from videokd.__main__ import main
from videokd.datasets.manifest import Manifest
from videokd.preparation.synthetic import generate
from videokd.runs.checkpoint import load_checkpoint
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import transcode

ONE = '--students={"one": {"streams": ["iframe", "motion"], "backbone": "test_resnet"}}'
TWO = '--students={"one": {"streams": ["iframe"], "backbone": "test_resnet"}, "two": {"streams": ["motion"], "backbone": "test_resnet"}}'


def prepare(source: Path, out: Path, *more: str) -> int:
    return main(["prepare", "folder", str(source), f"--out={out}", "--short-side=64", "--jobs=1", *more])


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """54 clips in folders whose names say nothing: the scenes of another seed."""
    folder = tmp_path_factory.mktemp("unlabelled")
    made = generate(folder / "made", seed=7, groups=3, clips_per_group=2, num_frames=14, size=64)
    for number, clip in enumerate(sorted(made.rglob("*.mp4"))):
        (folder / "in" / f"day{number % 3}").mkdir(parents=True, exist_ok=True)
        os.link(clip, folder / "in" / f"day{number % 3}" / f"{number:03d}.mp4")
    assert prepare(folder / "in", folder / "out", "--unlabelled") == 0
    return folder / "out"


def distill(prepared: Path, unlabelled: Path, out: Path, *more: str) -> int:
    return main(["distill", f"--manifest={prepared}", f"--unlabelled={unlabelled}", f"--out={out}", *TINY, *more])


def teachers(runs: dict[str, Path]) -> list[str]:
    return [f"--teachers.{stream}={run}" for stream, run in runs.items()]


def test_they_are_prepared_without_labels_and_for_training(unlabelled: Path) -> None:
    manifest = Manifest.read(unlabelled)
    assert manifest.class_names == ()
    assert len(manifest.clips) == 54
    assert {(c.label, c.class_name, c.split1, c.split2, c.split3) for c in manifest.clips} == {
        (-1, "", "train", "train", "train")
    }


def test_the_next_command_has_what_it_requires(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(clips, tmp_path / "more", "--unlabelled") == 0
    said = capsys.readouterr().err
    assert (
        f"Next: videokd distill --manifest LABELLED --teachers.iframe TEACHER --unlabelled {tmp_path / 'more'} --out RUN"
        in said
    )


def test_students_follow_their_teachers_on_them(
    prepared: Path, unlabelled: Path, teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = [ONE, *teachers(teacher_runs), "--data.val_fraction=0", "--objective.alpha=0.5"]
    assert distill(prepared, unlabelled, run, *arguments) == 0
    assert "another form" not in capsys.readouterr().err
    labelled = len(Manifest.read(prepared).select("train", split=1))
    steps = load_checkpoint(run / "checkpoint.pt")["progress"]["step"]
    assert steps == 2 * ((labelled + 54) // 6)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    # every batch of six holds its share of labelled clips, so that none is without a cross-entropy
    assert all(line["one/ce"] > 0 and line["one/kd"] >= 0 and 0 <= line["one/train_top1"] <= 1 for line in lines)
    capsys.readouterr()
    assert main(["evaluate", str(run), "--views=quick", "--workers=0", "--timed_videos=0", "--pictures=0"]) == 0
    results = json.loads((run / "results.json").read_text())
    assert results["dataset"]["num_videos"] == len(Manifest.read(prepared).select("test", split=1))


def test_a_share_of_each_batch_is_theirs(
    prepared: Path, unlabelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share = ("--data.unlabelled_share=0.5", "--data.val_fraction=0", "--optim.epochs=1")
    assert distill(prepared, unlabelled, tmp_path / "run", TWO, *share) == 0
    labelled = len(Manifest.read(prepared).select("train", split=1))
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["progress"]["step"] == (labelled + 54) // 6
    capsys.readouterr()
    out = f"--out={tmp_path / 'other'}"
    for verb in (["distill", TWO], ["teach", "--stream=motion"]):
        assert main([*verb, f"--manifest={prepared}", out, *TINY, *share]) == 2
        assert "data.unlabelled_share is 0.5, but there are no clips without labels" in refused(capsys)


def test_two_processes_count_each_label_alike(prepared: Path, unlabelled: Path, tmp_path: Path) -> None:
    """One of two clips has a label: where each process took the mean over its own, the other's would be lost in the log, and half in the loss."""
    settings = ["--data.unlabelled_share=0.5", "--data.val_fraction=0", "--data.batch_size=2", "--optim.epochs=1"]
    command = ["-m", "videokd", "distill", f"--manifest={prepared}", f"--unlabelled={unlabelled}", TWO, "--device=cpu"]
    for status, errors in ended(start_ranks([[*command, f"--out={tmp_path / 'run'}", *TINY, *settings]] * 2)):
        assert status == 0, errors
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    names = [name for name in lines[0] if name.endswith("/train_top1")]
    assert len(names) == 2
    assert all(line[name] in (0, 1) for line in lines for name in names)


def test_students_learn_from_each_other_on_them(prepared: Path, unlabelled: Path, tmp_path: Path) -> None:
    assert distill(prepared, unlabelled, tmp_path / "run", TWO, "--optim.epochs=1", "--optim.mixup=0.4") == 0


@pytest.mark.parametrize(
    "loss", ["target_loss=dist", "target_loss=dkd", "target_loss=hard", "feature_weight=1", "relation_weight=1"]
)
def test_every_loss_that_follows_teachers_takes_them(
    loss: str, prepared: Path, unlabelled: Path, teacher_runs: dict[str, Path], tmp_path: Path
) -> None:
    arguments = [ONE, *teachers(teacher_runs), f"--objective.{loss}", "--weighting=confidence"]
    assert distill(prepared, unlabelled, tmp_path / "run", *arguments, "--optim.epochs=1", "--objective.exits") == 0


def test_pseudo_labels_that_no_clip_gets_are_said(
    prepared: Path, unlabelled: Path, teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise a student that learned nothing would be tested like any other."""
    arguments = [ONE, *teachers(teacher_runs), "--objective.target_loss=hard", "--optim.epochs=1"]
    for confidence, is_said in (("1.0", True), ("0.0", False)):
        run = tmp_path / confidence
        assert distill(prepared, unlabelled, run, *arguments, f"--objective.confidence={confidence}") == 0
        said = capsys.readouterr().err
        assert ("no clip of the first epoch had a pseudo-label" in said) == is_said, said


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_tested_clips_among_them_are_refused(
    clips: Path,
    prepared: Path,
    teacher_runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "in").mkdir()
    tested = Manifest.read(prepared).select("test", split=1)[0]
    os.link(clips / tested.source_path, tmp_path / "in" / "another name.mp4")
    assert prepare(tmp_path / "in", tmp_path / "out", "--unlabelled") == 0
    assert distill(prepared, tmp_path / "out", tmp_path / "run", ONE, *teachers(teacher_runs)) == 2
    assert "1 clips of" in (line := refused(capsys))
    assert "are test clips of split 1" in line
    assert "another name.mp4" in line
    assert not (tmp_path / "run").exists()
    omitting = [ONE, *teachers(teacher_runs), "--overlap=omit"]
    assert distill(prepared, tmp_path / "out", tmp_path / "run", *omitting) == 2
    assert "without them, none is left" in refused(capsys)


def test_copies_of_tested_clips_are_refused_or_omitted(
    clips: Path,
    prepared: Path,
    unlabelled: Path,
    teacher_runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "in").mkdir()
    tested = Manifest.read(prepared).select("test", split=1)[0]
    transcode(clips / tested.source_path, tmp_path / "in" / "copy.mp4", Encoding("h264", gop=5, quality=24))
    others = Manifest.read(unlabelled)
    for clip in others.clips[:12]:
        os.link(others.file(clip), tmp_path / "in" / Path(clip.path).name)
    assert prepare(tmp_path / "in", tmp_path / "out", "--unlabelled", "--codec=h264") == 0
    arguments = [ONE, *teachers(teacher_runs), "--optim.epochs=1"]
    assert distill(prepared, tmp_path / "out", tmp_path / "run", *arguments) == 2
    line = refused(capsys)
    assert "1 clips of" in line
    assert f"show the same as test clips of split 1 of {prepared} (first: copy.mp4 like {tested.source_path})" in line
    assert "--overlap omit" in line
    assert not (tmp_path / "run").exists()
    assert distill(prepared, tmp_path / "out", tmp_path / "run", *arguments, "--overlap=omit") == 0
    assert "copy.mp4 like" in (said := capsys.readouterr().err)
    assert "omitted, 12 are left." in said
    assert f"{tmp_path / 'out'} was prepared in another form than {prepared} (codec h264 instead of mpeg4): " in said
    fit = json.loads((tmp_path / "run" / "trained_on.json").read_text())["fit"]
    assert sum(label == -1 for _, _, label in fit) == 12


def test_they_do_not_serve_where_labels_are_needed(
    prepared: Path, unlabelled: Path, teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"--out={tmp_path / 'run'}"
    assert main(["teach", "--stream=motion", f"--manifest={unlabelled}", out, *TINY]) == 2
    assert "has clips without labels" in refused(capsys)
    assert main(["evaluate", str(teacher_runs["motion"]), f"--manifest={unlabelled}"]) == 2
    assert "has clips without labels" in refused(capsys)
    assert distill(prepared, prepared, tmp_path / "run", ONE, *teachers(teacher_runs)) == 2
    assert "has clips with labels" in refused(capsys)


def test_without_anybody_to_follow_they_are_refused(
    prepared: Path, unlabelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distill(prepared, unlabelled, tmp_path / "run", ONE) == 2
    assert "Name teachers, add a student, or omit --unlabelled" in refused(capsys)


def test_groups_do_not_go_with_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(tmp_path, tmp_path / "out", "--unlabelled", "--group-pattern=(x)") == 2
    assert "Omit --group-pattern and --groups" in refused(capsys)
    assert prepare(tmp_path, tmp_path / "out", "--unlabelled") == 2
    assert "holds no videos" in refused(capsys)
