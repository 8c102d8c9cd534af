"""Targets that are stored: the same as teachers give when they look at the view themselves; computed once; shared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.recipes.test_verbs import refused
from tests.small_runs import TINY, teach_motion
from videokd.__main__ import main
from videokd.datasets.dataset import JoinedClips
from videokd.datasets.manifest import Manifest
from videokd.errors import DataError
from videokd.runs.device import Precision
from videokd.runs.ranks import Ranks
from videokd.runs.run_folder import RunFolder, load_teacher, network_of
from videokd.runs.session import Session
from videokd.runs.settings import DataSettings
from videokd.training.stored_teachers import StoredFeatures, StoredTeachers, stored_teachers
from videokd.training.training_clips import TrainingClips, training_clips
from videokd.types import Batch

ONE = '--students={"one": {"streams": ["motion"], "backbone": "test_resnet"}}'
VIEWS = 3


def clips_of(prepared: Path, cache: Path, *, seed: int = 0) -> TrainingClips:
    data = DataSettings(
        2, 32, batch_size=6, workers=0, val_fraction=0, cache=str(cache), cache_positions=4, stored_views=VIEWS
    )
    return training_clips(Manifest.read(prepared), None, ("iframe", "motion"), split=1, seed=seed, data=data)


def session_in(folder: Path) -> Session:
    return Session(RunFolder(folder), Precision("fp32", torch.device("cpu")), Ranks())


def distill(prepared: Path, teachers: dict[str, Path], cache: Path, out: Path, *more: str) -> int:
    named = [f"--teachers.{stream}={run}" for stream, run in teachers.items()]
    stored = [f"--data.cache={cache}", "--data.cache_positions=4", f"--data.stored_views={VIEWS}"]
    return main(["distill", f"--manifest={prepared}", f"--out={out}", *TINY, ONE, *named, *stored, *more])


def written(cache: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in (cache / "outputs").rglob("*.npy")}


def test_they_are_what_the_teachers_say_of_the_batch(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path
) -> None:
    """Looked up for training batches of another seed, against the networks on these batches' own pixels."""
    runs = {stream: load_teacher(run) for stream, run in teacher_runs.items()}
    teachers = stored_teachers(clips_of(prepared, tmp_path / "cache").fit, runs, session_in(tmp_path))
    batches = clips_of(prepared, tmp_path / "cache", seed=5).batches(first_step=0, ranks=Ranks())
    seen = set()
    for _, batch in zip(range(12), batches, strict=False):
        assert batch.views.min() >= 0
        seen |= {(int(clip), int(view)) for clip, view in zip(batch.clips, batch.views, strict=True)}
        for stream, run in runs.items():
            with torch.no_grad():
                torch.testing.assert_close(teachers(batch)[stream], network_of(run)(batch.streams))
    assert len({view for _, view in seen}) == VIEWS


def test_they_are_computed_once_for_all_seeds_and_only_where_missing(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    teachers = {"motion": teacher_runs["motion"]}
    assert distill(prepared, teachers, cache, tmp_path / "a") == 0
    first = written(cache)
    assert len(first) == len(Manifest.read(prepared).select("fit", split=1))
    assert distill(prepared, teachers, cache, tmp_path / "b", "--seed=9") == 0
    assert written(cache) == first
    # one that is gone and one that was cut off are computed again, to the same values
    gone, damaged = sorted(first)[:2]
    before = {file: np.load(file) for file in (gone, damaged)}
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert distill(prepared, teachers, cache, tmp_path / "c") == 0
    for file, values in before.items():
        np.testing.assert_allclose(np.load(file), values, rtol=1e-5, atol=1e-6)
    assert {f: t for f, t in written(cache).items() if f not in before} == {
        f: t for f, t in first.items() if f not in before
    }


def test_a_file_of_another_shape_is_computed_again(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path
) -> None:
    clips, runs = clips_of(prepared, tmp_path).fit, {"motion": load_teacher(teacher_runs["motion"])}
    stored_teachers(clips, runs, session_in(tmp_path))
    before = {file: np.load(file) for file in written(tmp_path)}
    for file, values in before.items():  # all alike: nothing but the network says how many classes there are
        np.save(file, values[:, :-1])
    stored_teachers(clips, runs, session_in(tmp_path))
    for file, values in before.items():
        np.testing.assert_allclose(np.load(file), values, rtol=1e-5, atol=1e-6)
    np.save(file, np.full_like(values, np.inf))
    with pytest.raises(DataError, match="teacher motion: some outputs in .* are not finite"):
        stored_teachers(clips, runs, session_in(tmp_path))


def test_ranks_divide_the_clips_whoever_is_first(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank writes everything that is its own before the other looks what is missing."""
    monkeypatch.setattr(Ranks, "barrier", lambda ranks: None)
    clips, runs = clips_of(prepared, tmp_path).fit, {"motion": load_teacher(teacher_runs["motion"])}
    first, second = (replace(session_in(tmp_path), ranks=Ranks(rank, 2)) for rank in range(2))
    with pytest.raises(DataError, match="cannot be read back"):
        stored_teachers(clips, runs, first)
    assert len(written(tmp_path)) == (len(clips) + 1) // 2
    stored_teachers(clips, runs, second)
    assert len(written(tmp_path)) == len(clips)


def test_unlabelled_clips_beside_them_change_nothing(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path
) -> None:
    """Whether these may be mirrored or not."""
    clips, runs = clips_of(prepared, tmp_path).fit, {"motion": load_teacher(teacher_runs["motion"])}
    stored_teachers(clips, runs, session_in(tmp_path))
    before = written(tmp_path)
    (part,) = clips.parts
    for flip in (True, False):
        more = replace(part, manifest=replace(part.manifest, flip=flip), clips=part.clips[:5])
        stored_teachers(JoinedClips((part, more)), runs, session_in(tmp_path))
        assert {file: at for file, at in written(tmp_path).items() if file in before} == before
    assert len(written(tmp_path)) == len(before) + 5  # views of clips that must not be mirrored


def test_other_weights_have_targets_of_their_own(prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert distill(prepared, {"motion": teacher_runs["motion"]}, cache, tmp_path / "a") == 0
    other = tmp_path / "other"
    command = teach_motion(prepared, other)
    assert main([*command, *TINY, "--seed=3"]) == 0
    count = len(written(cache))
    assert distill(prepared, {"motion": other}, cache, tmp_path / "b") == 0
    assert len(written(cache)) == 2 * count


def test_they_go_with_the_pieces_of_a_batch(prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path) -> None:
    runs = {"motion": load_teacher(teacher_runs["motion"])}
    clips = clips_of(prepared, tmp_path / "cache")
    teachers = stored_teachers(clips.fit, runs, session_in(tmp_path))
    batch = next(clips.batches(first_step=0, ranks=Ranks()))
    for piece in batch.split(4):
        with torch.no_grad():
            torch.testing.assert_close(teachers(piece)["motion"], network_of(runs["motion"])(piece.streams))


def test_a_batch_without_stored_views_is_refused() -> None:
    teachers = StoredTeachers({"motion": torch.zeros(2, 2, 3)})
    with pytest.raises(Exception, match="drawn anew"):
        teachers(Batch({}, torch.tensor([0]), ("a",)))


def test_what_does_not_go_together_is_refused(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teach = ["teach", "--stream=iframe", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={tmp_path / 'x'}"]
    assert "data.cache" in refused(capsys, *teach, *TINY, "--data.stored_views=4")
    cached = (f"--data.cache={tmp_path / 'cache'}", "--data.stored_views=4")
    mixed = refused(
        capsys,
        *["distill", f"--manifest={prepared}", f"--out={tmp_path / 'y'}", *TINY, ONE, *cached, "--optim.mixup=0.4"],
        f"--teachers.motion={teacher_runs['motion']}",
    )
    assert "have not seen the mixtures" in mixed
    assert "data.stored_views" in refused(capsys, *teach, *TINY, "--freeze=true")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "y").exists()


def test_features_are_stored_for_students_that_follow_them(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path
) -> None:
    run = load_teacher(teacher_runs["motion"])
    clips = clips_of(prepared, tmp_path / "cache")
    teachers = stored_teachers(clips.fit, {"motion": run}, session_in(tmp_path), with_features=True)
    assert isinstance(teachers, StoredFeatures)
    for _, batch in zip(range(3), clips.batches(first_step=0, ranks=Ranks()), strict=False):
        logits, features = teachers.with_features(batch)
        with torch.no_grad():
            wanted_logits, wanted = network_of(run)(batch.streams, with_features=True)
        torch.testing.assert_close(logits["motion"], wanted_logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(features["motion"], wanted, rtol=1e-4, atol=1e-4)
    weights = ("--objective.feature_weight=1", "--objective.relation_weight=1")
    assert distill(prepared, {"motion": teacher_runs["motion"]}, tmp_path / "cache", tmp_path / "run", *weights) == 0
