"""Nobody scores or teaches with a run on clips that it was trained on; a resumed run meets the same clips."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from tests.recipes.test_verbs import refused
from tests.small_runs import STUDENTS, TINY
from videokd.__main__ import main
from videokd.datasets.manifest import Manifest
from videokd.stopping import StopSignal

QUICK = ("--views=quick", "--workers=0", "--timed_videos=0", "--pictures=0")
ONE_EPOCH = (*TINY, "--optim.epochs=1")
MOTION = ("teach", "--stream=motion", "--backbone=test_resnet")


@pytest.fixture(scope="module")
def no_validation(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on all training clips of split 1."""
    run = tmp_path_factory.mktemp("runs") / "run"
    assert main([*MOTION, f"--manifest={prepared}", f"--out={run}", *ONE_EPOCH, "--data.val_fraction=0"]) == 0
    return run


def rows(prepared: Path) -> list[dict[str, str]]:
    """The manifest as Parquet has it."""
    return list(pq.read_table(prepared / "manifest.parquet").to_pylist())


def in_both(prepared: Path) -> tuple[int, int]:
    """(clips that split 2 tests, those of them that split 1 trains on)."""
    tested = [row for row in rows(prepared) if row["split2"] == "test"]
    return len(tested), sum(row["split1"] == "train" for row in tested)


def test_a_split_whose_test_clips_the_run_knows(
    prepared: Path, no_validation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tested, known = in_both(prepared)
    assert known
    run = tmp_path / "run"
    shutil.copytree(no_validation, run)
    message = refused(capsys, "evaluate", str(run), "--split=2", *QUICK)
    assert f"was trained on {known} of these {tested} clips" in message
    assert (f"--seen omit` scores only the other {tested - known}" in message) == (known < tested)
    assert not list(run.glob("scores-*"))
    assert main(["evaluate", str(run), "--split=2", "--seen=score", *QUICK]) == 0
    assert f"{known} of {tested} clips were in its training" in capsys.readouterr().err
    # whoever sees only the page, of the run or of its fused scores, is told too
    fused, page = tmp_path / "fused", tmp_path / "page.html"
    assert main(["fuse", f"--scores.a={run / 'scores-motion.npz'}", f"--out={fused}"]) == 0
    for folder in (run, fused):
        assert main(["report", str(folder), f"--save={page}"]) == 0
        assert f"{known} of the videos were in training" in page.read_text(encoding="utf-8")
    if known < tested:
        assert main(["evaluate", str(run), "--split=2", "--seen=omit", *QUICK]) == 0
    else:
        assert "was trained on" in refused(capsys, "evaluate", str(run), "--split=2", "--seen=omit", *QUICK)
    assert main(["evaluate", str(run), *QUICK]) == 0
    assert "in its training" not in capsys.readouterr().err


@pytest.mark.parametrize("keep", ["file", "source"])
def test_the_same_clips_by_other_names(
    keep: str, prepared: Path, no_validation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another manifest: other ids, paths and parts; the same prepared files, or others made from the same sources."""
    manifest = Manifest.read(prepared)
    other = tmp_path / "other"
    (other / "v").mkdir(parents=True)
    clips = []
    for number, clip in enumerate(manifest.clips):
        shutil.copy(manifest.file(clip), other / "v" / f"{number}.mp4")
        part = "test" if clip.split1 == "train" else "train"
        clips.append(
            replace(
                clip,
                video_id=f"clip{number}",
                path=f"v/{number}.mp4",
                group=f"g{number}",
                split1=part,
                sha256=clip.sha256 if keep == "file" else f"{number:064x}",
                source_sha256=clip.source_sha256 if keep == "source" else f"{number:064x}",
            )
        )
    replace(manifest, root=other, clips=tuple(clips)).write()
    count = sum(clip.split1 == "train" for clip in manifest.clips)
    message = refused(capsys, "evaluate", str(no_validation), f"--manifest={other}", *QUICK)
    assert f"was trained on {count} of these {count} clips (clip" in message
    other_run = tmp_path / "student"
    teach = refused(
        capsys,
        "distill",
        f"--manifest={other}",
        f"--out={other_run}",
        STUDENTS,
        f"--teachers.motion={no_validation}",
        *ONE_EPOCH,
        "--data.val_fraction=0",
    )
    assert f"was trained on {count} of the {count} clips that split 1 of {other} tests" in teach
    assert not other_run.exists()


def test_validation_clips_may_be_scored_and_are_told_of_in_a_test(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main([*MOTION, f"--manifest={prepared}", f"--out={run}", *ONE_EPOCH]) == 0
    assert main(["evaluate", str(run), "--part=val", *QUICK]) == 0
    kept = json.loads((run / "trained_on.json").read_text())
    held_out = {sha256 for sha256, _, _ in kept["held_out"]}
    assert held_out
    manifest = Manifest.read(prepared)
    root = tmp_path / "moved"
    shutil.copytree(prepared, root)
    clips = [
        replace(clip, split1="test" if clip.sha256 in held_out else "train", group=f"{clip.class_name}/{clip.video_id}")
        for clip in manifest.clips
    ]
    replace(manifest, root=root, clips=tuple(clips)).write()
    capsys.readouterr()
    assert main(["evaluate", str(run), f"--manifest={root}", *QUICK]) == 0
    assert f"{len(held_out)} of {len(held_out)} clips chose its best epoch" in capsys.readouterr().err


def test_a_run_without_a_record(
    prepared: Path, no_validation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(no_validation, run)
    (run / "trained_on.json").unlink()
    assert "was trained on" in refused(capsys, "evaluate", str(run), "--split=2", *QUICK)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"manifest": str(tmp_path / "gone")}))
    assert main(["evaluate", str(run), "--split=2", f"--manifest={prepared}", *QUICK]) == 0
    assert "cannot be checked" in capsys.readouterr().err
    for damaged in (b"{", b"[]", b'{"version": 2}', b"\xff", b"[" * 100_000):
        (run / "trained_on.json").write_bytes(damaged)
        assert "trained_on.json is damaged" in refused(capsys, "evaluate", str(run), f"--manifest={prepared}", *QUICK)


def test_scores_of_clips_that_a_run_knows_are_not_fused(
    prepared: Path, no_validation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(no_validation, run)
    assert main(["evaluate", str(run), *QUICK]) == 0
    scores = f"--scores.motion={run / 'scores-motion.npz'}"
    assert main(["fuse", scores]) == 0
    kept = json.loads((run / "trained_on.json").read_text())
    tested = [[row["sha256"], row["source_sha256"], row["label"]] for row in rows(prepared) if row["split1"] == "test"]
    (run / "trained_on.json").write_text(json.dumps(kept | {"fit": tested}))
    for more in ((), ("--sweep",), ("--calibrate",)):
        assert f"was trained on {len(tested)} of these {len(tested)} videos" in refused(capsys, "fuse", scores, *more)
    (run / "trained_on.json").write_text(json.dumps(kept))
    assert main(["fuse", scores, "--sweep"]) == 0


def test_a_student_counts_its_teachers_clips_as_seen(
    prepared: Path, no_validation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The student is trained on half of the clips, its teacher on all: the other half is no test for either."""
    manifest = Manifest.read(prepared)
    root, run = tmp_path / "half", tmp_path / "student"
    shutil.copytree(prepared, root)
    train = [clip for clip in manifest.clips if clip.split1 == "train"]
    halved = tuple(replace(clip, split1="unused" if clip in train[::2] else clip.split1) for clip in manifest.clips)
    replace(manifest, root=root, clips=halved).write()
    teacher = f"--teachers.motion={no_validation}"
    common = [*ONE_EPOCH, "--data.val_fraction=0"]
    assert main(["distill", f"--manifest={root}", f"--out={run}", STUDENTS, teacher, *common]) == 0
    as_test = tuple(replace(c, split1="test" if c.split1 == "unused" else "unused") for c in halved)
    replace(manifest, root=root, clips=as_test).write()
    message = refused(capsys, "evaluate", str(run), *QUICK)
    assert f"was trained on {len(train[::2])} of these {len(train[::2])} clips" in message
    assert "it, its teachers or its initial weights" in message


def test_teachers_that_see_other_views_are_refused(
    prepared: Path, no_validation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["distill", f"--manifest={prepared}", f"--out={tmp_path / 'x'}", STUDENTS, *ONE_EPOCH]
    teacher = f"--teachers.motion={no_validation}"
    assert "learned from 2 segments a clip, the students see 4" in refused(
        capsys, *command, teacher, "--data.num_segments=4"
    )
    tested, known = in_both(prepared)
    message = refused(capsys, *command, teacher, "--split=2")
    assert f"was trained on {known} of the {tested} clips that split 2 of {prepared} tests" in message
    assert "--split 2" in message
    assert not (tmp_path / "x").exists()


def test_a_teacher_that_knows_the_validation_clips_is_told_of(
    prepared: Path, no_validation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["distill", f"--manifest={prepared}", f"--out={tmp_path / 'x'}", STUDENTS, *ONE_EPOCH]
    assert main([*command, f"--teachers.motion={no_validation}"]) == 0
    held_out = len(json.loads((tmp_path / "x" / "trained_on.json").read_text())["held_out"])
    assert f"knows {held_out} of the {held_out} clips held out here" in capsys.readouterr().err


def stopped(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a training that is asked to stop in its second step."""
    looks = itertools.count()
    with monkeypatch.context() as patch:
        asked = property(lambda self: next(looks) >= 1, lambda self, value: None)
        patch.setattr(StopSignal, "requested", asked, raising=False)
        assert main(command) == 130


def test_a_resumed_run_meets_the_same_clips_wherever_they_lie(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(prepared, data)
    command = [*MOTION, f"--out={run}", *TINY]
    stopped([*command, f"--manifest={data}"], monkeypatch)
    manifest = Manifest.read(data)
    train = [clip for clip in manifest.clips if clip.split1 == "train"]
    others = {
        "of 18 training clips": tuple(clip for clip in manifest.clips if clip not in train[::2]),
        "are gone or changed": tuple(
            replace(clip, label=(clip.label + 1) % 9, class_name=manifest.class_names[(clip.label + 1) % 9])
            for clip in manifest.clips
        ),
        "in another order": manifest.clips[::-1],
    }
    for what, clips in others.items():
        replace(manifest, clips=clips).write()
        message = refused(capsys, *command, f"--manifest={data}")
        assert "holds a run on other data" in message
        assert what in message
    replace(manifest, flip=not manifest.flip).write()
    assert "mirrored" in refused(capsys, *command, f"--manifest={data}")
    manifest.write()
    monkeypatch.chdir(tmp_path)
    stopped([*command, "--manifest=data/"], monkeypatch)
    stopped([*command, f"--manifest={data / 'manifest.parquet'}"], monkeypatch)
    data.rename(tmp_path / "moved")
    assert main([*command, f"--manifest={tmp_path / 'moved'}", "--data.workers=1"]) == 0
    assert "resuming from step" in capsys.readouterr().err


def test_a_resumed_student_meets_the_same_teachers(
    prepared: Path,
    no_validation: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher, run = tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(no_validation, teacher)
    command = ["distill", f"--manifest={prepared}", f"--out={run}", STUDENTS, *TINY]
    stopped([*command, f"--teachers.motion={teacher}"], monkeypatch)
    teacher.rename(tmp_path / "moved")
    stopped([*command, f"--teachers.motion={tmp_path / 'moved'}{os.sep}"], monkeypatch)
    best = torch.load(tmp_path / "moved" / "best.pt", weights_only=True)
    name = next(name for name in best["payload"]["state"] if name.endswith("fc.bias"))
    best["payload"]["state"][name] += 1
    torch.save(best, tmp_path / "moved" / "best.pt")
    assert "teachers.motion has other weights" in refused(capsys, *command, f"--teachers.motion={tmp_path / 'moved'}")
