"""The test protocol on a run: what `videokd evaluate` does, and `teach` and `distill` with --test after training."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from videokd.datasets.manifest import Manifest, read_manifest
from videokd.errors import ConfigError, DataError
from videokd.evaluation.examples import choose_examples, draw_examples
from videokd.evaluation.overlap import Seen, unseen_clips
from videokd.evaluation.partial_scores import PartialScores
from videokd.evaluation.protocol import (
    Loading,
    finished_results,
    keys_of,
    measure_networks,
    pictures_are_there,
    protocol_clips,
    protocol_dataset,
    say_accuracies,
    score,
    write_evaluation,
)
from videokd.evaluation.results import Results, ScoredPart, results_name, versions_now
from videokd.evaluation.scores import finished_scores
from videokd.messages import say
from videokd.runs.device import Precision, pick_device, pick_precision
from videokd.runs.memory import out_of_memory_in_a_line
from videokd.runs.ranks import Ranks
from videokd.runs.run_folder import TrainedRun, check_same_classes, load_run
from videokd.runs.run_settings import Distill, Teach
from videokd.runs.settings import Device, PrecisionName
from videokd.runs.trained_on import tested_clips

_MOST_PICTURES = 12


@dataclass(frozen=True)
class Evaluate:
    """Runs the test protocol on a run, and writes scores, results and pictures into its folder.

    Interrupted and started again, it resumes; each part has files of its own (`results-val.json`, `scores-val-*.npz`).

    Args:
        run: folder of `videokd teach` or `videokd distill`.
        manifest: of the clips to test on; by default the run's own.
        split: by default the run's own.
        part: test, or val: the clips held out in training.
        seen: clips that the run was trained on: refuse them all, omit them, or score them nevertheless.
        views: full is CoViAR's 25 segments and 10 crops (5 where mirroring is off); quick is 8 segments and 1 crop.
        num_segments: places looked at in each video; by default as `views` says.
        batch_size: videos at a time.
        workers: processes that load videos; -1: as many as there are cores, at most 16.
        device: auto takes CUDA where there is one.
        precision: auto, fp32, tf32 (CUDA only), bf16 or fp16 (CUDA only); auto is tf32 on a GPU that has it, fp32 elsewhere.
        timed_videos: how many videos are timed from file to label, one at a time; 0 for none.
        pictures: how many videos' streams are drawn: half of them misclassified videos, if there are enough.
    """

    run: str
    manifest: str | None = None
    split: int | None = None
    part: Literal["test", "val"] = "test"
    seen: Seen = "refuse"
    views: Literal["quick", "full"] = "full"
    num_segments: int | None = None
    batch_size: int = 4
    workers: int = -1
    device: Device = "auto"
    precision: PrecisionName = "auto"
    timed_videos: int = 10
    pictures: int = 6

    def __post_init__(self) -> None:
        segments = 1 if self.num_segments is None else self.num_segments
        if not 1 <= self.batch_size <= 10_000 or not 1 <= segments <= 1000:
            raise ConfigError(
                f"batch_size is {self.batch_size}, num_segments {self.num_segments} (accepted: 1 to 10000, 1 to 1000). Correct the settings."
            )
        if not 0 <= self.pictures <= _MOST_PICTURES or not -1 <= self.workers <= 256 or self.timed_videos < 0:
            raise ConfigError(
                f"pictures is 0 to {_MOST_PICTURES}, workers -1 to 256, timed_videos 0 or more. Correct the settings."
            )

    @property
    def beside_scores(self) -> dict[str, object]:
        """What the results depend on beside the scores: a change measures again, without scoring again."""
        return {name: getattr(self, name) for name in ("part", "split", "seen", "timed_videos", "pictures")}


def evaluate(settings: Evaluate, *, command: str) -> Results:
    """Evaluates every network of a run, and all of them fused; returns what results.json holds."""
    results = evaluate_shared(settings, command=command, ranks=Ranks(device=pick_device(settings.device)))
    assert results is not None, "there is no other rank"
    return results


def evaluate_shared(settings: Evaluate, *, command: str, ranks: Ranks) -> Results | None:
    """As `evaluate`, the videos shared by the ranks; None on all but the first, which leave once all videos are scored."""
    precision = pick_precision(settings.precision, ranks.device, training=False)
    with precision.in_effect(), out_of_memory_in_a_line(lambda: _too_large(settings, precision)):
        return _evaluate(settings, precision, ranks, command=command)


def _evaluate(settings: Evaluate, precision: Precision, ranks: Ranks, *, command: str) -> Results | None:
    part = settings.part
    run, manifest = _run_and_manifest(settings)
    precision.prepared(run.students)

    split = settings.split or run.settings.split
    clips = protocol_clips(manifest, run, part=part, split=split)
    clips, num_trained_on = unseen_clips(run, clips, part=part, seen=settings.seen)
    dataset = protocol_dataset(run, manifest, clips, views=settings.views, num_segments=settings.num_segments)
    made_from = keys_of(run, dataset, precision, settings=settings.beside_scores)
    _check_same(ranks, run.path, made_from["scores"])
    before = finished_results(run.path, part=part, key=made_from["scores"])
    scores = finished_scores(run.path, before, clips) if before is not None else None
    partial = PartialScores.of_run(run.path, key=made_from["scores"], num_videos=len(clips))
    if ranks.any(scores is None):
        scores = score(run, dataset, precision, partial, Loading(settings.batch_size, settings.workers, ranks))
    elif before and before.made_from == made_from and pictures_are_there(run.path, before):
        return _said_again(before, part)
    if scores is None or not ranks.is_first:
        return None
    entries, early_exit = measure_networks(run, scores, dataset, precision, timed_videos=settings.timed_videos)
    shown = choose_examples(scores.get("fused", next(iter(scores.values()))), clips, count=settings.pictures)

    results = Results(
        run=run.path.name,
        verb="evaluate",
        command=command,
        versions=versions_now() | precision.described,
        dataset=ScoredPart(str(manifest.root), split, part, len(clips), manifest.class_names, num_trained_on or None),
        seen=settings.seen,
        views=settings.views,
        num_segments=dataset.num_segments,
        made_from=made_from,
        weights=run.weights,
        entries=entries,
        early_exit=early_exit or None,
        examples=draw_examples(manifest, shown, run.path / "pictures", part=part),
    )
    write_evaluation(run.path, results, scores)
    partial.remove()
    say_accuracies(results)
    return results


def _too_large(settings: Evaluate, precision: Precision) -> str:
    """What a GPU's memory was too small for, and what to change."""
    found = f"batch_size {settings.batch_size}, views {settings.views}, precision {precision.name}. Videos that are scored are kept."
    if settings.batch_size == 1:
        return f"{found} A single video is too large: pass fewer `--num_segments`, or `--views quick`."
    return f"{found} Run `videokd evaluate {settings.run}` with `--batch_size {settings.batch_size // 2}`."


def _said_again(results: Results, part: str) -> Results:
    say(f"{results.run}: already evaluated on {results.created}. Delete {results_name(part)} to measure again.")
    say_accuracies(results)
    return results


def _run_and_manifest(settings: Evaluate) -> tuple[TrainedRun, Manifest]:
    run = load_run(settings.run)
    manifest = read_manifest(settings.manifest or run.settings.manifest)
    check_same_classes(run, manifest)
    return run, manifest


def _check_same(ranks: Ranks, run: Path, key: str) -> None:
    """Refuses to share an evaluation where ranks have read different weights or clips."""
    if not ranks.agree(key):
        raise DataError(
            f"{run}: processes found different weights or clips in it, or compute in different precisions (accepted: the same for all). Wait until nothing is training there, keep it on "
            "a file system that all machines share, then try again."
        )


def evaluate_after_training(settings: Teach | Distill) -> None:
    """Evaluates a run as its setting `test` says, if it does, and prints the accuracies.

    Args:
        settings: that the run was trained with.
    """
    if settings.test == "none":
        return
    if not tested_clips(read_manifest(settings.manifest), split=settings.split):
        say(f"{settings.out}: nothing to test on: {settings.manifest} has no test clips in split {settings.split}.")
        return
    options = {
        "views": settings.test,
        "workers": settings.data.workers,
        "device": settings.device,
        "precision": settings.precision,
    }
    words = [settings.out, *(f"--{name}={value}" for name, value in options.items())]
    chosen = Evaluate(settings.out, **options)  # type: ignore[arg-type]
    evaluate(chosen, command="videokd evaluate " + shlex.join(words))
