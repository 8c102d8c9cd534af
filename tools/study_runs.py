"""The runs of `tools/study`: how each is made, and what of it is kept."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import videokd
from videokd.datasets.manifest import Manifest
from videokd.distill.fusion import fuse
from videokd.evaluation.scores import Scores, align
from videokd.recipes.command_line import parse
from videokd.recipes.distill import distill
from videokd.recipes.evaluate import Evaluate, evaluate
from videokd.recipes.teach import teach
from videokd.training.run_settings import Distill, Teach

RECORDS = Path(__file__).resolve().parent / "results" / "study"
STREAMS = ("iframe", "motion", "residual")
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
#: What else could be trained on the same clips: the same backbone on RGB frames and on optical flow, and a 3-D network.
BASELINES = ("two-stream", "r2plus1d")
_WITHOUT_TEACHERS = ("hard", "mutual", "exits", "one-hard", *BASELINES)
WITHOUT_TEACHERS = (*_WITHOUT_TEACHERS, *(run for run, (like, _) in VARIATIONS.items() if like in _WITHOUT_TEACHERS))
#: A 3-D network takes a second a clip and step: as many epochs as the time of one whole cell of the study allows.
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
    """One dataset, split and seed, and where its runs lie.

    Args:
        dataset: its name.
        data: the prepared folder.
        split: 1, 2 or 3.
        seed: of weights, order and views.
        out: the study's folder.
        records: where the runs' files lie.
    """

    dataset: str
    data: Path
    split: int
    seed: int
    out: Path
    records: Path = RECORDS

    @property
    def folder(self) -> Path:
        return self.out / f"{self.dataset}-{self.split}-{self.seed}"

    def record(self, run: str) -> Path:
        return self.records / f"{self.dataset}-{self.split}-{self.seed}-{run}.json"

    def common(self, *, role: Literal["teacher", "student"], held_out: float = 0.0) -> list[str]:
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
        return self.folder / f"teacher-{stream}"


def teach_command(cell: Cell, stream: str, *, held_out: float = 0.0) -> list[str]:
    chosen = ["--stream", stream, "--backbone", TEACHER, "--out", str(cell.teacher(stream))]
    return ["teach", *chosen, *cell.common(role="teacher", held_out=held_out)]


def baseline_commands(cell: Cell, run: str) -> list[list[str]]:
    """What trains the networks of one baseline: with hard labels, as the students are."""
    out, common = cell.folder / run, cell.common(role="student")
    if run == "two-stream":
        nets = (("--stream", stream, "--backbone", STUDENT, "--out", f"{out}-{stream}") for stream in ("rgb", "flow"))
        return [["teach", *chosen, *common] for chosen in nets]
    larger = ("--data.num_segments", str(VIDEO_FRAMES), "--optim.epochs", str(VIDEO_EPOCHS))
    return [["teach", "--stream", "rgb", "--backbone", VIDEO, "--out", str(out), *common, *larger]]


def distill_commands(cell: Cell, run: str, choice: Mapping[str, Any], *, held_out: float = 0.0) -> list[list[str]]:
    """What trains the students of one way of learning; one command, or one a stream where each has a teacher of its own."""
    if run in VARIATIONS:
        return _varied(cell, run, choice, held_out=held_out)
    heard, mutual = choice["distillation"], choice["mutual"]
    with_exits = run in ("exits", "everything")
    taught_by: Sequence[Sequence[str]] = [()]
    if run == "own":
        taught_by = [(stream,) for stream in STREAMS]
    elif run.startswith("from-"):
        taught_by = [(run.removeprefix("from-"),)]
    elif run not in WITHOUT_TEACHERS:
        taught_by = [STREAMS]
    commands = []
    for teachers in taught_by:
        seen = teachers if run == "own" else STREAMS
        students: dict[str, Any] = {s: {"streams": [s], "backbone": STUDENT} for s in seen}
        stacked = {"all": {"streams": list(STREAMS), "backbone": STUDENT}}
        students = stacked if run.startswith("one-") else students | stacked if run == "four" else students
        out = cell.folder / (f"{run}-{teachers[0]}" if run == "own" else run)
        options = ["--students", json.dumps(students), "--out", str(out)]
        options += ["--objective.beta", str(mutual["beta"] if "mutual" in run or run in ("everything", "four") else 0)]
        if teachers:
            options += ["--objective.alpha", str(heard["alpha"]), "--objective.temperature", str(heard["temperature"])]
            options += [f for stream in teachers for f in (f"--teachers.{stream}", str(cell.teacher(stream)))]
        if with_exits:
            options += ["--objective.exits", "true"]
        if run == "fitted":
            options += ["--weights", json.dumps(choice["weights"][cell.dataset]["logits"])]
        commands.append(["distill", *options, *cell.common(role="student", held_out=held_out)])
    return commands


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


def perform(command: list[str]) -> Path:
    """Runs `videokd teach` or `videokd distill` in this process; returns the run's folder."""
    verb, *options = command
    if verb == "teach":
        return teach(parse(Teach, options, verb=verb)).path
    return distill(parse(Distill, options, verb=verb)).path


def evaluation_command(run: Path, *, part: str = "test", segments: int = TESTED_SEGMENTS) -> list[str]:
    views = ["--views", "quick", "--num_segments", str(segments), "--part", part]
    return ["evaluate", str(run), *views, "--workers", "0", "--timed_videos", "0", "--pictures", "0", "--device", "cpu"]


def scores_of(
    run: Path, *, part: str = "test", segments: int = TESTED_SEGMENTS
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """{network: scores} of a run, and what its results.json holds."""
    command = evaluation_command(run, part=part, segments=segments)
    settings = parse(Evaluate, command[1:], verb="evaluate", positional=("run",))
    results = evaluate(settings, command="videokd " + shlex.join(command))
    return {n: Scores.load(run / f"scores-{n.replace(':', '-')}.npz") for n in results["entries"]}, results


def hits(scores: Scores) -> str:
    """A digit a video, in the order of their names: 1 where the likeliest class is the right one."""
    right = scores.logits.argmax(1) == scores.labels
    return "".join("01"[int(right[at])] for at in np.argsort(scores.video_ids))


def fused(scores: Mapping[str, Scores], weights: Mapping[str, float], space: str) -> Scores:
    together = align(scores)
    logits = fuse({n: torch.from_numpy(s.logits) for n, s in together.items()}, dict(weights), space=space)  # type: ignore[arg-type]
    first = next(iter(together.values()))
    return Scores(logits.numpy(), first.labels, first.video_ids)


def run_teachers(cell: Cell, choice: Mapping[str, Any]) -> dict[str, Any]:
    commands = [teach_command(cell, stream) for stream in STREAMS]
    scores: dict[str, Scores] = {}
    cost: dict[str, Any] = {}
    for stream, command in zip(STREAMS, commands, strict=True):
        of_run, results = scores_of(perform(command))
        scores[stream] = of_run[stream]
        cost[stream] = _cost(results["entries"][stream])
    everything = {name: {"hits": hits(each)} | cost[name] for name, each in scores.items()}
    total = {key: sum(each[key] for each in cost.values()) for key in ("parameters", "macs_per_video")}
    for name, (shares, space) in FUSIONS.items():
        weights = choice["weights"][cell.dataset][space] if shares is None else dict(zip(STREAMS, shares, strict=True))
        everything[f"fused {name}"] = {"hits": hits(fused(scores, weights, space)), "weights": weights} | total
    groups = {clip.video_id: clip.group for clip in Manifest.read(cell.data).select("test", split=cell.split)}
    videos = dict(sorted(groups.items()))
    return {
        "commands": commands,
        "entries": everything,
        "evaluation": evaluation_command(Path("RUN")),
        "videos": videos,
    }


def run_students(cell: Cell, run: str, choice: Mapping[str, Any]) -> dict[str, Any]:
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
        entries |= {name: {"hits": hits(of_run[name])} | _cost(entry) for name, entry in results["entries"].items()}
        early |= results.get("early_exit", {})
    if len(commands) > 1:
        total = {key: sum(entry[key] for entry in entries.values()) for key in ("parameters", "macs_per_video")}
        entries["fused"] = {"hits": hits(fused(scores, dict.fromkeys(scores, 1.0), "logits"))} | total
    evaluation = evaluation_command(Path("RUN"), segments=segments)
    made = {"commands": commands, "entries": entries, "evaluation": evaluation}
    return made | ({"early_exit": early} if early else {})


def _optical_flow() -> AbstractContextManager[None]:
    from optical_flow import as_a_stream  # needs OpenCV, which the rest does not

    return as_a_stream()


def _cost(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in ("parameters", "macs_per_video")}


def about() -> dict[str, str]:
    return {
        "date": datetime.date.today().isoformat(),
        "videokd": videokd.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": _processor(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
