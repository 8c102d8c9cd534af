"""Refuses scores of clips that a run was trained on, and teachers that were trained on a student's test clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from videokd.datasets.manifest import Clip, Manifest
from videokd.errors import ConfigError, DataError
from videokd.evaluation.results import Results
from videokd.messages import say
from videokd.runs.initial import Initial
from videokd.runs.run_folder import RunFolder, TrainedRun
from videokd.runs.run_settings import read_settings
from videokd.runs.settings import DataSettings
from videokd.runs.trained_on import TrainedOn, same_clips, some, tested_clips, trained_on, training_parts

Seen = Literal["refuse", "omit", "score"]


def unseen_clips(run: TrainedRun, clips: Sequence[Clip], *, part: str, seen: Seen) -> tuple[tuple[Clip, ...], int]:
    """The clips to score, without those that the run was trained on, unless these are asked for.

    Args:
        run: the trained networks.
        clips: of the part.
        part: test or val; a message says how many test clips chose the best epoch.
        seen: what to do with clips that the run was trained on: refuse all, omit these, or score these too.

    Returns:
        The clips; how many of them the run was trained on.

    Raises:
        DataError: there are such clips, and they are refused, or no others are left.
    """
    known = trained_on(run.path, run.settings)
    if known is None:
        say(
            f"{run.path}: whether it was trained on these clips cannot be checked: it has no trained_on.json, and its manifest is not where "
            "it was. Train it again if you do not know."
        )
        return tuple(clips), 0
    fitted = known.seen(clips)
    fitted_ids = {clip.video_id for clip in fitted}
    left = [clip for clip in clips if clip.video_id not in fitted_ids]
    if fitted and (seen == "refuse" or (seen == "omit" and not left)):
        raise DataError(_refusal(run, fitted, len(clips)))
    if fitted:
        what = "omitted" if seen == "omit" else "scored nevertheless: the accuracy is too high"
        say(f"{run.path}: {len(fitted)} of {len(clips)} clips were in its training ({some(fitted)}); {what}.")
    chosen = known.chosen_with(clips) if part == "test" else []
    if chosen:
        say(
            f"{run.path}: {len(chosen)} of {len(clips)} clips chose its best epoch ({some(chosen)}): the accuracy may be a little too high."
        )
    return (tuple(left), 0) if seen == "omit" else (tuple(clips), len(fitted))


def _refusal(run: TrainedRun, fitted: Sequence[Clip], total: int) -> str:
    own, left = run.settings.split, total - len(fitted)
    others = f"; `--seen omit` scores only the other {left}" if left else ""
    return (
        f"{run.path} was trained on {len(fitted)} of these {total} clips ({some(fitted)}), it, its teachers or its initial weights: their accuracy would be meaningless. "
        f"Evaluate it on split {own} of its own manifest, or train a run on the split that you test{others}."
    )


def check_teacher(
    name: str, run: TrainedRun, manifest: Manifest, *, split: int, data: DataSettings
) -> TrainedOn | None:
    """Refuses a teacher that does not fit a student's training.

    Args:
        name: of the teacher.
        run: its run.
        manifest: the student's clips.
        split: the student's.
        data: the student's data settings.

    Returns:
        What the teacher was trained on; None where that is not known.

    Raises:
        ConfigError: it learned from another number of segments than the student.
        DataError: it was trained on clips that the student's split tests.
    """
    _check_view(name, run, data)
    return _check_source(f"teachers.{name}", run, manifest, split=split, val_fraction=data.val_fraction)


def fitted_of_initial(initial: Initial, manifest: Manifest, *, split: int, val_fraction: float) -> frozenset[str]:
    """Refuses initial weights from runs that were trained on a new run's test clips.

    Args:
        initial: what the new run's networks start from.
        manifest: the new run's clips.
        split: the new run's.
        val_fraction: the new run's.

    Returns:
        sha256 of all clips that the weights were fitted to, as far as that is known.

    Raises:
        DataError: a run was trained on clips that the split tests.
    """
    fitted = initial.fitted
    for name, run in initial.runs.items():
        known = _check_source(f"init of {name}", run, manifest, split=split, val_fraction=val_fraction)
        fitted |= known.fitted if known else frozenset()
    return fitted


def _check_source(
    label: str, run: TrainedRun, manifest: Manifest, *, split: int, val_fraction: float
) -> TrainedOn | None:
    """What a run was trained on, from which another one learns or starts; refuses one that was trained on the other's test clips."""
    known = trained_on(run.path, run.settings)
    if known is None:
        say(
            f"{label}: whether {run.path} was trained on this split's test clips cannot be checked: it has no trained_on.json, and its "
            "manifest is not where it was. Train it again if you do not know."
        )
        return None
    fit, held_out = training_parts(manifest, split=split, val_fraction=val_fraction)
    tested = tested_clips(manifest, split=split)
    # clips that the split has on both sides are the student's own problem, which `evaluate` reports
    both_sides = {clip.video_id for clip in same_clips(tested, fit)}
    tested = tuple(clip for clip in tested if clip.video_id not in both_sides)
    fitted = known.seen(tested)
    if fitted:
        raise DataError(
            f"{label}: {run.path} was trained on {len(fitted)} of the {len(tested)} clips that split {split} of {manifest.root} tests "
            f"({some(fitted)}): the student would learn its own test clips. Train that run with `--manifest {manifest.root} --split {split}`."
        )
    for clips, what in ((known.seen(held_out), "knows"), (known.chosen_with(tested), "chose its best epoch with")):
        if clips:
            of = (
                f"{len(held_out)} clips held out here"
                if what == "knows"
                else f"{len(tested)} test clips of split {split}"
            )
            say(
                f"{label}: {run.path} {what} {len(clips)} of the {of} ({some(clips)}): validation accuracy may be too high. "
                "Train that run with the same manifest, split and data.val_fraction."
            )
    return known


def _check_view(name: str, run: TrainedRun, data: DataSettings) -> None:
    segments = run.students.num_segments
    if segments != data.num_segments:
        raise ConfigError(
            f"teachers.{name} learned from {segments} segments a clip, the students see {data.num_segments}; they share one view. Pass "
            f"`--data.num_segments {segments}`, or train the teacher with {data.num_segments}."
        )


def check_scores_file(path: Path, results: Results | None, video_ids: Sequence[str]) -> None:
    """Refuses a scores file of a run that was trained on some of its videos.

    Args:
        path: of the scores file; only files in a training run's folder can be checked.
        results: the results beside it, which name the manifest.
        video_ids: of the scores.

    Raises:
        DataError: the run was trained on some of the videos.
    """
    config = path.parent / "config.yaml"
    if not config.is_file() or (results is not None and results.seen == "score"):
        return
    try:
        settings = read_settings(RunFolder(path.parent).config)
        manifest = Manifest.read(results.dataset.manifest if results is not None else settings.manifest)
        known = trained_on(path.parent, settings)
    except (OSError, ValueError, KeyError, TypeError, DataError):
        known = None
    clips = {} if known is None else {clip.video_id: clip for clip in manifest.clips}
    if known is None or not set(video_ids) <= set(clips):
        say(
            f"{path}: whether the run was trained on these videos cannot be checked, as its manifest is not where it was."
        )
        return
    fitted = known.seen([clips[video_id] for video_id in video_ids])
    if fitted:
        raise DataError(
            f"{path}: {path.parent} was trained on {len(fitted)} of these {len(video_ids)} videos ({some(fitted)}). Evaluate the run again on "
            "clips it has not seen, and use those scores."
        )
