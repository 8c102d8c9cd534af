"""What bounds a training step: the networks, the reading of clips, or what surrounds both.

    .venv/bin/python measurements/bench_bounds.py [--size 32] [--batch 8] [--segments 3] [--backbone test_resnet] [--students 3]
        [--teachers test_resnet] [--precision fp32] [--device auto] [--workers 2] [--manifest DIR] [--steps 60] [--repeats 3]

`videokd.training.loop.learn` trains in four ways, in turns: real networks on batches that lie in memory (the networks' own speed), networks
that compute nothing on clips that are read (the loader's), both (a training), and neither (what a step costs in Python, log included).
Milliseconds of a step and clips a second are medians over the turns; the first steps of each turn are not counted. A training that takes as
long as the slower of the first two overlaps them fully. Without --manifest, clips are generated. It only prints.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from record import CODEC_STREAMS
from videokd.datasets.manifest import Manifest
from videokd.distill.objective import Objective
from videokd.jobs.workers import Workers
from videokd.models.backbone import Network
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, Students, build_students
from videokd.models.teachers import Teachers
from videokd.preparation.folders import folder_layout
from videokd.preparation.listing import Listing
from videokd.preparation.prepare_dataset import prepare
from videokd.preparation.synthetic import generate
from videokd.runs.device import Precision, pick_device, seed_everything
from videokd.runs.ranks import Ranks
from videokd.runs.run_folder import RunFolder
from videokd.runs.settings import DataSettings, OptimSettings
from videokd.training.loop import learn
from videokd.training.run_state import RunState
from videokd.training.target import TeacherTarget
from videokd.training.training_clips import training_clips
from videokd.training.update import Update
from videokd.types import STREAMS, Batch

CLASSES = 9  # of generated clips
WARM_UP = 10
ROWS = {
    "networks alone": ("real", "in memory"),
    "clips alone": ("idle", "read"),
    "both: a training": ("real", "read"),
    "neither": ("idle", "in memory"),
}


class Idle(Network):
    """A network that gives the same logits for every clip, and looks at none."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        self.requires_grad_(False)
        self.guess = nn.Parameter(torch.zeros(spec.num_classes))

    def forward(self, streams: Any, *, with_features: bool = False) -> Any:
        """[B, K], all rows alike."""
        del with_features
        return self.guess.expand(len(streams[self.spec.streams[0]]), -1)


@dataclass
class Clips:
    """Stands in for `TrainingClips`, and notes when each batch is asked for.

    Args:
        source: gives batches from a step on, for these ranks.
        steps_per_epoch: of the run's one epoch.
        device: to wait for at the first counted batch and at the last one.
        batch_size: clips of a batch.
        has_unlabelled: no clip is without a label.
    """

    source: Callable[[int, Ranks], Generator[Batch, None, None]]
    steps_per_epoch: int
    device: torch.device
    batch_size: int
    asked: list[float] = field(default_factory=list)
    has_unlabelled: bool = False
    held_out: None = None
    workers: int = 0
    seed: int = 0

    def batches(self, *, first_step: int, ranks: Ranks) -> Generator[Batch, None, None]:
        """The source's batches."""
        batches = self.source(first_step, ranks)
        try:
            while True:
                if len(self.asked) in (WARM_UP, self.steps_per_epoch - 1) and self.device.type == "cuda":
                    torch.cuda.synchronize()
                self.asked.append(time.perf_counter())
                yield next(batches)
        finally:
            batches.close()

    @property
    def seconds_of_step(self) -> float:
        """The mean over the counted steps."""
        return (self.asked[-1] - self.asked[WARM_UP]) / (len(self.asked) - 1 - WARM_UP)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 32), ("batch", 8), ("segments", 3), ("students", 3), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--steps", type=int, default=60, help=f"of a turn, the first {WARM_UP} of which are not counted"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backbone", default="test_resnet")
    parser.add_argument("--teachers", default="test_resnet", help="their backbone; none: students learn from labels")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    return parser.parse_args()


def networks(given: argparse.Namespace, *, idle: bool) -> tuple[Students, TeacherTarget | None]:
    """Students of one stream each, and their teachers; or students that compute nothing, without teachers."""
    streams = CODEC_STREAMS[: given.students]
    specs = {name: NetworkSpec((name,), given.backbone, CLASSES, given.size) for name in streams}
    about = PredictionSpec([str(label) for label in range(CLASSES)], given.segments)
    if idle:
        return Students({name: Idle(spec) for name, spec in specs.items()}, about), None
    students = build_students(specs, about, seed=0)
    if given.teachers == "none":
        return students, None
    teachers = {name: Network(NetworkSpec((name,), given.teachers, CLASSES, given.size)) for name in CODEC_STREAMS}
    weights = dict.fromkeys(teachers, 1.0)
    return students, TeacherTarget(Teachers(teachers), weights, weights)


def in_memory(given: argparse.Namespace, first_step: int, ranks: Ranks) -> Generator[Batch, None, None]:
    """The same random clips again and again, in memory as the loader leaves them."""
    del first_step
    shape = (given.batch, given.segments, given.size, given.size)
    streams = {
        name: torch.randint(0, 256, (*shape, STREAMS[name].channels), dtype=torch.uint8).permute(0, 1, 4, 2, 3)
        for name in CODEC_STREAMS
    }
    batch = Batch(streams, torch.randint(0, CLASSES, (given.batch,)), tuple(map(str, range(given.batch))))
    if ranks.device.type == "cuda":
        batch = batch.pin_memory()
    while True:
        yield batch


def read(given: argparse.Namespace, manifest: Manifest, first_step: int, ranks: Ranks) -> Generator[Batch, None, None]:
    """Batches of clips that are decoded by workers."""
    data = DataSettings(
        num_segments=given.segments,
        input_size=given.size,
        batch_size=given.batch,
        workers=given.workers,
        val_fraction=0,
    )
    clips = training_clips(manifest, None, CODEC_STREAMS, split=1, seed=0, data=data)
    return clips.batches(first_step=first_step, ranks=ranks)


def seconds_of_step(given: argparse.Namespace, manifest: Manifest, row: str, folder: Path) -> float:
    """Trains for a few steps in one of the four ways."""
    network, source = ROWS[row]
    seed_everything(0)
    device = pick_device(given.device)
    # Session by its fields: this program also times versions that have it elsewhere
    session: Any = SimpleNamespace(
        folder=RunFolder(folder), precision=Precision(given.precision, device), ranks=Ranks(device=device)
    )
    folder.mkdir()
    students, target = networks(given, idle=network == "idle")
    optim = OptimSettings(epochs=1, warmup_epochs=0)
    objective = Objective(alpha=0.0 if target is None else 0.5)
    update = Update(students, objective, optim=optim, precision=session.precision, order="simultaneous")
    batches = partial(in_memory, given) if source == "in memory" else partial(read, given, manifest)
    clips = Clips(batches, given.steps, device, given.batch)
    state = RunState(students, update, session, role="student")
    learn(state, clips, target, optim=optim, session=session)  # type: ignore[arg-type]
    return clips.seconds_of_step


def prepared(given: argparse.Namespace, folder: Path) -> Manifest:
    """The clips to read."""
    if given.manifest:
        return Manifest.read(given.manifest)
    size = max(64, -(-given.size * 8 // 7) // 2 * 2)
    made = generate(folder / "clips", groups=4, clips_per_group=2, num_frames=48, size=size)
    return prepare(Listing(made, folder_layout(made), True), folder / "prepared", workers=Workers(jobs=2))


def main() -> None:
    """The program."""
    given = arguments()
    if given.steps < WARM_UP + 2:
        raise SystemExit(f"--steps {given.steps} (accepted: {WARM_UP + 2} or more)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = prepared(given, folder)
        seconds: dict[str, list[float]] = {row: [] for row in given.only}
        for turn in range(given.repeats):
            for row in given.only:
                seconds[row].append(seconds_of_step(given, manifest, row, folder / f"{row}-{turn}"))
    device = pick_device(given.device).type
    print(f"{given.students} × {given.backbone}, teachers: {given.teachers}, {given.precision}, {device}")
    print(f"{'':<18}{'ms a step':>10}{'clips/s':>10}")
    for row, values in seconds.items():
        median = statistics.median(values)
        print(f"{row:<18}{1000 * median:>10.2f}{given.batch / median:>10.0f}")


if __name__ == "__main__":
    main()
