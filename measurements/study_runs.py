"""The runs of the study: how each is trained and evaluated, and what of it goes into the table."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from record import CODEC_STREAMS as STREAMS
from record import machine, today, versions
from study_records import RECORDS, CellKey, add_record
from videokd.datasets.manifest import Manifest
from videokd.distill.fusion import fuse
from videokd.evaluation.results import as_plain
from videokd.evaluation.scores import Scores, align
from videokd.recipes.command_line import parse
from videokd.recipes.distill import distill
from videokd.recipes.evaluation_run import Evaluate, evaluate
from videokd.recipes.teach import teach
from videokd.runs.run_settings import Distill, Teach

TEACHER, STUDENT = "test_resnet", "test_efficientnet"
SEEDS = (0, 1, 2)
SPLITS = {"ucf101-6": (1, 2, 3), "utd-mhad-5": (1, 2)}
SCHEDULES = {  # dataset: epochs of teachers and of students, clips of a batch
    "ucf101-6": (60, 40, 24),
    "utd-mhad-5": (150, 100, 16),
}
TESTED_SEGMENTS = 8
INPUT_SIZE, CACHED_POSITIONS = 64, 24
#: The seed of the teachers that the hyper-parameters were chosen with; a part of the training clips was held out of theirs.
SEED_OF_TUNING = 100
CORE = ("hard", "own", "fused", "mutual", "mutual-fused", "exits", "everything")
#: Runs like another one but for a few options; `longer` doubles the epochs.
LONGER = "longer"
VARIATIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "dist": ("fused", ("--objective.target_loss", "dist")),
    "standardised": ("fused", ("--objective.standardise", "true")),
    "fused-T4": ("fused", ("--objective.temperature", "4")),
    "hard-mixup": ("hard", ("--optim.mixup", "0.4")),
    "fused-mixup": ("fused", ("--optim.mixup", "0.4")),
    "hard-longer": ("hard", (LONGER,)),
    "fused-longer": ("fused", (LONGER,)),
    "one-hard-longer": ("one-hard", (LONGER,)),
    "one-fused-longer": ("one-fused", (LONGER,)),
}
EXTRAS = ("one-hard", "one-fused", "from-iframe", "from-motion", "from-residual", "fitted", "four", *VARIATIONS)
#: Other networks trained on the same clips: the students' backbone on RGB frames and on optical flow, and a 3-D network.
BASELINES = ("two-stream", "r2plus1d")
_WITHOUT_TEACHERS = ("hard", "mutual", "exits", "one-hard", *BASELINES)
WITHOUT_TEACHERS = (*_WITHOUT_TEACHERS, *(run for run, (like, _) in VARIATIONS.items() if like in _WITHOUT_TEACHERS))
#: A 3-D network takes one second for each clip and step: as many epochs as fit into the time of a whole cell.
VIDEO, VIDEO_FRAMES, VIDEO_EPOCHS = "video:r2plus1d_18", 16, 4
#: Ways of fusing the three teachers: weights (None: those fitted on held-out clips) and space.
FUSIONS: Mapping[str, tuple[tuple[float, float, float] | None, str]] = {
    "1:1:1 logits": ((1, 1, 1), "logits"),
    "2:1:1 logits": ((2, 1, 1), "logits"),
    "fitted logits": (None, "logits"),
    "1:1:1 probs": ((1, 1, 1), "probs"),
    "2:1:1 probs": ((2, 1, 1), "probs"),
    "fitted probs": (None, "probs"),
}


@dataclass(frozen=True)
class Cell:
    """One dataset, split and seed, and where its runs are.

    Args:
        dataset: its name.
        data: the prepared folder.
        split: 1, 2 or 3.
        seed: of weights, order and views.
        out: the study's folder.
        records: the table of runs.
    """

    dataset: str
    data: Path
    split: int
    seed: int
    out: Path
    records: Path = RECORDS

    @property
    def key(self) -> CellKey:
        """The cell in the table of runs."""
        return CellKey(self.dataset, self.split, self.seed)

    @property
    def folder(self) -> Path:
        """The folder of its runs."""
        return self.out / str(self.key)

    def common(self, *, role: Literal["teacher", "student"], held_out: float = 0.0) -> list[str]:
        """Options that all trainings of a role share."""
        of_teachers, of_students, batch = SCHEDULES[self.dataset]
        epochs = of_teachers if role == "teacher" else of_students
        return [
            *("--manifest", str(self.data), "--split", str(self.split), "--seed", str(self.seed), "--device", "cpu"),
            *("--data.input_size", str(INPUT_SIZE), "--data.num_segments", "1", "--data.batch_size", str(batch)),
            *("--data.workers", "0", "--data.val_fraction", str(held_out)),
            *("--data.cache", str(self.out / "cache"), "--data.cache_positions", str(CACHED_POSITIONS)),
            *("--optim.epochs", str(epochs), "--optim.lr", "0.003", "--optim.weight_decay", "0.05"),
            *("--optim.warmup_epochs", "2"),
        ]

    def teacher(self, stream: str) -> Path:
        """The run of a stream's teacher."""
        return self.folder / f"teacher-{stream}"


def teach_command(cell: Cell, stream: str, *, held_out: float = 0.0) -> list[str]:
    """The command that trains a stream's teacher."""
    chosen = ["--stream", stream, "--backbone", TEACHER, "--out", str(cell.teacher(stream))]
    return ["teach", *chosen, *cell.common(role="teacher", held_out=held_out)]


def baseline_commands(cell: Cell, run: str) -> list[list[str]]:
    """The commands that train the networks of one baseline, with hard labels like the students."""
    out, common = cell.folder / run, cell.common(role="student")
    if run == "two-stream":
        nets = (("--stream", stream, "--backbone", STUDENT, "--out", f"{out}-{stream}") for stream in ("rgb", "flow"))
        return [["teach", *chosen, *common] for chosen in nets]
    larger = ("--data.num_segments", str(VIDEO_FRAMES), "--optim.epochs", str(VIDEO_EPOCHS))
    return [["teach", "--stream", "rgb", "--backbone", VIDEO, "--out", str(out), *common, *larger]]


def distill_commands(cell: Cell, run: str, choice: Mapping[str, Any], *, held_out: float = 0.0) -> list[list[str]]:
    """The commands that train the students of one way of learning: one, or one for each stream where each has its own teacher."""
    if run in VARIATIONS:
        return _varied(cell, run, choice, held_out=held_out)
    common = cell.common(role="student", held_out=held_out)
    commands = []
    for teachers in _teachers_of(run):
        seen = teachers if run == "own" else STREAMS
        out = cell.folder / (f"{run}-{teachers[0]}" if run == "own" else run)
        options = ["--students", json.dumps(_students_of(run, seen)), "--out", str(out)]
        options += _objective_of(cell, run, choice, teachers)
        commands.append(["distill", *options, *common])
    return commands


def _teachers_of(run: str) -> list[tuple[str, ...]]:
    """The streams of the teachers of each training."""
    if run == "own":
        return [(stream,) for stream in STREAMS]
    if run.startswith("from-"):
        return [(run.removeprefix("from-"),)]
    return [()] if run in WITHOUT_TEACHERS else [STREAMS]


def _students_of(run: str, seen: Sequence[str]) -> dict[str, Any]:
    students: dict[str, Any] = {stream: {"streams": [stream], "backbone": STUDENT} for stream in seen}
    stacked = {"all": {"streams": list(STREAMS), "backbone": STUDENT}}
    if run.startswith("one-"):
        return stacked
    return students | stacked if run == "four" else students


def _objective_of(cell: Cell, run: str, choice: Mapping[str, Any], teachers: Sequence[str]) -> list[str]:
    target, mutual = choice["distillation"], choice["mutual"]
    options = ["--objective.beta", str(mutual["beta"] if "mutual" in run or run in ("everything", "four") else 0)]
    if teachers:
        options += ["--objective.alpha", str(target["alpha"]), "--objective.temperature", str(target["temperature"])]
        options += [f for stream in teachers for f in (f"--teachers.{stream}", str(cell.teacher(stream)))]
    if run in ("exits", "everything"):
        options += ["--objective.exits", "true"]
    if run == "fitted":
        options += ["--weights", json.dumps(choice["weights"][cell.dataset]["logits"])]
    return options


def _varied(cell: Cell, run: str, choice: Mapping[str, Any], *, held_out: float) -> list[list[str]]:
    same_but, changes = VARIATIONS[run]
    _, epochs, _ = SCHEDULES[cell.dataset]
    if changes == (LONGER,):
        changes = ("--optim.epochs", str(2 * epochs))
    commands = distill_commands(cell, same_but, choice, held_out=held_out)
    for command in commands:
        command[command.index("--out") + 1] = str(cell.folder / run)
        command.extend(changes)
    return commands


#: Results must not depend on which CPU scores
ON_CPU = ("--device", "cpu", "--precision", "fp32")


def perform(command: list[str]) -> Path:
    """Runs `videokd teach` or `videokd distill` in this process; returns the run's folder."""
    verb, *options = command
    if verb == "teach":
        return teach(parse(Teach, options, verb=verb)).path
    return distill(parse(Distill, options, verb=verb)).path


def evaluation_command(run: Path, *, part: str = "test", segments: int = TESTED_SEGMENTS) -> list[str]:
    """The command that tests a run."""
    views = ["--views", "quick", "--num_segments", str(segments), "--part", part]
    return ["evaluate", str(run), *views, "--workers", "0", "--timed_videos", "0", "--pictures", "0", *ON_CPU]


def scores_of(
    run: Path, *, part: str = "test", segments: int = TESTED_SEGMENTS
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Evaluates a run: {network: scores}, and its results."""
    command = evaluation_command(run, part=part, segments=segments)
    settings = parse(Evaluate, command[1:], verb="evaluate", positional=("run",))
    results = as_plain(evaluate(settings, command="videokd " + shlex.join(command)))
    return {n: Scores.load(run / f"scores-{n.replace(':', '-')}.npz") for n in results["entries"]}, results


def hits(scores: Scores) -> str:
    """One digit for each video, in the order of their names: 1 where the predicted class is correct."""
    right = scores.logits.argmax(1) == scores.labels
    return "".join("01"[int(right[at])] for at in np.argsort(scores.video_ids))


def fused_scores(scores: Mapping[str, Scores], weights: Mapping[str, float], space: str) -> Scores:
    """The scores of several networks, fused."""
    together = align(scores)
    logits = fuse({n: torch.from_numpy(s.logits) for n, s in together.items()}, dict(weights), space=space)  # type: ignore[arg-type]
    first = next(iter(together.values()))
    return Scores(logits.numpy(), first.labels, first.video_ids)


def run_teachers(cell: Cell, choice: Mapping[str, Any]) -> dict[str, Any]:
    """Trains and tests the three teachers, and tests their fusions; returns the record."""
    commands = [teach_command(cell, stream) for stream in STREAMS]
    scores: dict[str, Scores] = {}
    cost: dict[str, Any] = {}
    for stream, command in zip(STREAMS, commands, strict=True):
        of_run, results = scores_of(perform(command))
        scores[stream] = of_run[stream]
        cost[stream] = cost_of(results["entries"][stream])
    everything = {name: {"hits": hits(each)} | cost[name] for name, each in scores.items()}
    total = {key: sum(each[key] for each in cost.values()) for key in ("parameters", "macs_per_video")}
    for name, (shares, space) in FUSIONS.items():
        weights = choice["weights"][cell.dataset][space] if shares is None else dict(zip(STREAMS, shares, strict=True))
        everything[f"fused {name}"] = {"hits": hits(fused_scores(scores, weights, space)), "weights": weights} | total
    groups = {clip.video_id: clip.group for clip in Manifest.read(cell.data).select("test", split=cell.split)}
    videos = dict(sorted(groups.items()))
    return {
        "commands": commands,
        "entries": everything,
        "evaluation": evaluation_command(Path("RUN")),
        "videos": videos,
    }


def run_students(cell: Cell, run: str, choice: Mapping[str, Any]) -> dict[str, Any]:
    """Trains and tests the students of one way of learning, or a baseline; returns the record."""
    baseline = run in BASELINES
    commands = baseline_commands(cell, run) if baseline else distill_commands(cell, run, choice)
    segments = VIDEO_FRAMES if run == "r2plus1d" else TESTED_SEGMENTS
    scores: dict[str, Scores] = {}
    entries: dict[str, Any] = {}
    early: dict[str, Any] = {}
    for command in commands:
        with _optical_flow() if "flow" in command else nullcontext():
            of_run, results = scores_of(perform(command), segments=segments)
        scores |= of_run
        entries |= {name: {"hits": hits(of_run[name])} | cost_of(entry) for name, entry in results["entries"].items()}
        early |= results.get("early_exit", {})
    if len(commands) > 1:
        total = {key: sum(entry[key] for entry in entries.values()) for key in ("parameters", "macs_per_video")}
        entries["fused"] = {"hits": hits(fused_scores(scores, dict.fromkeys(scores, 1.0), "logits"))} | total
    evaluation = evaluation_command(Path("RUN"), segments=segments)
    made = {"commands": commands, "entries": entries, "evaluation": evaluation}
    return made | ({"early_exit": early} if early else {})


def _optical_flow() -> AbstractContextManager[None]:
    from optical_flow import as_a_stream  # needs OpenCV, which the rest does not

    return as_a_stream()


def cost_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters and MACs of an entry of results.json."""
    return {key: entry[key] for key in ("parameters", "macs_per_video")}


def made() -> dict[str, Any]:
    """When, where and with which versions a run is trained."""
    return {"date": today(), "machine": machine(threads=1), "versions": versions(("torch",))}


def measured(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The record that the work returns, its commands as they are typed, with time, place and versions."""
    started, cpu = time.perf_counter(), time.process_time()
    record = work()
    commands = [f"videokd {shlex.join(command)}" for command in record["commands"]]
    evaluation = "videokd " + shlex.join(record.get("evaluation") or evaluation_command(Path("RUN")))
    took = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    return record | {"commands": commands, "evaluation": evaluation} | took | {"made": made()}


def keep(table: Path, key: CellKey, run: str, record: Mapping[str, Any], *, places: Mapping[Path, str]) -> None:
    """Adds a record to a table.

    Args:
        table: the file.
        key: the run's cell.
        run: its name.
        record: JSON values.
        places: {folder: how it is called in the table}, the longest first.
    """
    text = json.dumps(record)
    for folder, name in places.items():
        text = text.replace(str(folder), name)
    add_record(table, key, run, text)


def top1_text(record: Mapping[str, Any]) -> str:
    """The accuracies of a record's entries, for people."""
    return ", ".join(f"{n} {100 * e['hits'].count('1') / len(e['hits']):.1f} %" for n, e in record["entries"].items())
