"""Time of a training step: one student, with teachers, with peers, with exits, with all of them; as ratios within one run.

    .venv/bin/python measurements/bench_step.py [--size 224] [--batch 64] [--segments 3] [--student resnet18]
        [--teachers resnet152,resnet18,resnet18] [--repeats 9] [--compiled] [--manifest DIR --workers 16]

Students and teachers are those of the preset mtkd-three. Variants take turns, so that a busy machine slows all of them alike, and
ratios are medians over the turns. On CUDA every precision it has is timed, with peak memory; --compiled also times the
networks compiled by torch.compile. With --manifest, the share of time spent waiting for data is measured on real clips, decoded on the
fly. Writes results/bench_step-DEVICE-DATE.json. In five minutes on a CPU:

    .venv/bin/python measurements/bench_step.py --size 64 --batch 8 --teachers resnet18,resnet18,resnet18 --repeats 5
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from record import CODEC_STREAMS, RESULTS, provenance, write
from timing import in_turns, median_ratio
from videokd.datasets.batches import training_batches
from videokd.datasets.dataset import ClipDataset
from videokd.datasets.manifest import Manifest
from videokd.datasets.order import EpochBatches
from videokd.distill.objective import Objective
from videokd.models.backbone import Network, channels_last
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, Students, build_students
from videokd.models.teachers import Teachers, keep_weights_in
from videokd.runs.device import Precision, pick_device
from videokd.runs.ranks import Ranks
from videokd.runs.settings import OptimSettings
from videokd.training.record import RunLog, check_finite, memory_gib
from videokd.training.step_numbers import StepNumbers, StepsOnDevice, accuracy_and_agreement
from videokd.training.target import TeacherTarget
from videokd.training.update import Update, Updated
from videokd.types import STREAMS, Batch

CLASSES = 101
RATE = 1e-4
PRECISIONS: dict[str, tuple[Literal["fp32", "tf32", "bf16", "fp16"], ...]] = {
    "cpu": ("fp32", "bf16"),
    "cuda": ("fp32", "tf32", "bf16", "fp16"),
}
#: The project's own limits: name → (at most, or at least, which value).
BARS = {
    "three teachers: step / (students' step + teachers' forward)": ("at most", 1.05),
    "logging: share of a step": ("at most", 0.01),
    "bf16: speed-up of the taught step over fp32": ("at least", 2.0),
    "data: share of time waiting": ("at most", 0.10),
}


#: {ratio: (a variant, the variants whose sum it is divided by)}
RATIOS = {
    "exits: step / student's step": ("one student, exits", "one student"),
    "three students: step / one student's step": ("three students", "one student"),
    "three teachers: step / (students' step + teachers' forward)": (
        "three students, teachers",
        "three students",
        "three teachers, forward alone",
    ),
    "three teachers: step / students' step": ("three students, teachers", "three students"),
    "peers: step / students' step": ("three students, peers", "three students"),
    "exits of three: step / students' step": ("three students, exits", "three students"),
    "everything: step / students' step": ("three students, teachers, peers, exits", "three students"),
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--segments", type=int, default=3)
    parser.add_argument("--student", default="resnet18")
    parser.add_argument(
        "--teachers", default="resnet152,resnet18,resnet18", help="backbones of the three streams' teachers"
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precisions", default="", help="such as fp32,bf16; by default all that the device has")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def students(given: argparse.Namespace, *, number: int, exits: bool = False) -> Students:
    """`number` students of one stream each, as mtkd-three has them."""
    specs = {stream: NetworkSpec((stream,), given.student, CLASSES, given.size) for stream in CODEC_STREAMS[:number]}
    names = [str(label) for label in range(CLASSES)]
    return build_students(specs, PredictionSpec(names, given.segments), seed=0, with_exits=exits)


def target_of(given: argparse.Namespace, device: torch.device, *, compiled: bool) -> TeacherTarget:
    """Three teachers, fused with equal weights."""
    backbones = zip(CODEC_STREAMS, given.teachers.split(","), strict=True)
    networks = {stream: Network(NetworkSpec((stream,), name, CLASSES, given.size)) for stream, name in backbones}
    teachers = channels_last(Teachers(networks).to(device))
    if compiled:
        for network in networks.values():
            network.compile()
    return TeacherTarget(teachers, dict.fromkeys(CODEC_STREAMS, 1.0), dict.fromkeys(CODEC_STREAMS, 1.0))


def batch_of(given: argparse.Namespace) -> Batch:
    """Random clips, in memory as the loader leaves them: the channels of a pixel side by side."""
    shape = (given.batch, given.segments, given.size, given.size)
    streams = {
        name: torch.randint(0, 256, (*shape, STREAMS[name].channels), dtype=torch.uint8).permute(0, 1, 4, 2, 3)
        for name in CODEC_STREAMS
    }
    label = torch.randint(0, CLASSES, (given.batch,))
    return Batch(streams, label, tuple(map(str, range(given.batch))))


@dataclass(frozen=True)
class Step:
    """A training step as in `videokd.training.loop`, without data and log."""

    update: Update
    target: TeacherTarget | None
    batch: Batch
    precision: Precision

    def __call__(self) -> tuple[Updated, Mapping[str, torch.Tensor]]:
        """One update of the students, and the teachers' predictions."""
        batch = self.batch
        target = None if self.target is None else self.target(batch, batch.label, self.precision)
        return self.update(batch, batch.label, target, rate=RATE), target.predictions if target else {}


class Bench:
    """One batch and three teachers, and the training steps that are timed with them.

    Args:
        given: the command line.
        batch: clips.
        precision: of all networks.
        compiled: whether networks are compiled by torch.compile.
    """

    def __init__(self, given: argparse.Namespace, batch: Batch, precision: Precision, *, compiled: bool) -> None:
        self._given, self._compiled = given, compiled
        self.precision, self.batch = precision, batch.to(precision.device)
        self.target = target_of(given, precision.device, compiled=compiled)
        for network in self.target.networks:
            keep_weights_in(network, precision.dtype)

    def teachers_forward(self) -> None:
        """Only the teachers' target."""
        self.target(self.batch, self.batch.label, self.precision)

    def step(self, number: int, *, taught: bool = False, mutual: bool = False, exits: bool = False) -> Step:
        """The step of `number` students: with teachers, with peers, with exits."""
        learners = students(self._given, number=number, exits=exits).to(self.precision.device)
        learners = channels_last(learners).train()
        objective = Objective(alpha=0.5 if taught else 0.0, beta=1.0 if mutual else 0.0)
        update = Update(learners, objective, optim=OptimSettings(), precision=self.precision, order="simultaneous")
        if self._compiled:
            for network in (*learners.members.values(), *learners.exits.values()):
                network.compile()
        return Step(update, self.target if taught else None, self.batch, self.precision)


def synchronise(device: torch.device) -> None:
    """Waits for the device's work, so that the clock includes it."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory_gib(functions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Memory that a call needs beyond what all variants hold together: activations, gradients and what the allocator cannot reuse."""
    peaks = {}
    for name, function in functions.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        peaks[name] = (torch.cuda.max_memory_allocated() - held) / 2**30
    return peaks


def logging_seconds(step: Step, *, repeats: int) -> float:
    """Time that the log of one step takes after the step itself: the numbers, their transfer, and both files."""
    seen_by = {stream: (stream,) for stream in CODEC_STREAMS}
    device = step.precision.device
    steps = StepsOnDevice(device, Ranks(), most_steps=1)
    seconds = []
    with tempfile.TemporaryDirectory() as folder, RunLog(folder) as log:
        updated, predictions = step()
        for number in range(10 * repeats):
            synchronise(device)
            started = time.perf_counter()
            losses = {**updated.parts, "loss/total": updated.total}
            others = accuracy_and_agreement(updated, step.batch.label, predictions)
            steps.begin_step()
            steps.batch_is_here()
            steps.keep(StepNumbers(number, 0, RATE, len(step.batch), losses, others))
            if read := steps.read():
                (values,) = read.values
                check_finite({name: values[name] for name in losses}, step=number, streams=seen_by)
                log.record(number, 0, values | {"lr": RATE} | memory_gib(device))
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def measure(given: argparse.Namespace, precision: Precision, *, compiled: bool) -> dict[str, Any]:
    """Seconds, their spread and ratios of all variants at one precision; on CUDA, peak memory too."""
    bench = Bench(given, batch_of(given), precision, compiled=compiled)
    taught = bench.step(3, taught=True)
    functions: dict[str, Callable[[], object]] = {
        "one student": bench.step(1),
        "one student, exits": bench.step(1, exits=True),
        "three students": bench.step(3),
        "three teachers, forward alone": bench.teachers_forward,
        "three students, teachers": taught,
        "three students, peers": bench.step(3, mutual=True),
        "three students, exits": bench.step(3, exits=True),
        "three students, teachers, peers, exits": bench.step(3, taught=True, mutual=True, exits=True),
    }
    device = precision.device

    def clock() -> float:
        synchronise(device)
        return time.perf_counter()

    turns = in_turns(functions, repeats=given.repeats, clock=clock, name=device.type, warm_ups=2)
    seconds = {name: statistics.median(values) for name, values in turns.items()}
    log_seconds = logging_seconds(taught, repeats=given.repeats)
    result: dict[str, Any] = {
        "seconds": seconds | {"the log of a taught step": log_seconds},
        "spread": {name: [min(values), max(values)] for name, values in turns.items()},
        "ratios": {label: ratio(turns, of, *to) for label, (of, *to) in RATIOS.items()}
        | {"logging: share of a step": log_seconds / seconds["three students, teachers"]},
    }
    if device.type == "cuda":
        result["peak_memory_gib"] = peak_memory_gib(functions)
    return result


def ratio(turns: Mapping[str, Sequence[float]], of: str, *to: str) -> float:
    """One variant over the sum of others, the median over the turns."""
    return median_ratio(turns[of], [sum(parts) for parts in zip(*(turns[name] for name in to), strict=True)])


def waiting(given: argparse.Namespace, precision: Precision) -> dict[str, Any]:
    """Share of the time spent waiting for clips decoded on the fly, with one student for each stream and three teachers."""
    manifest = Manifest.read(given.manifest)
    clips = manifest.select("train", split=1)
    dataset = ClipDataset(
        manifest, clips, CODEC_STREAMS, num_segments=given.segments, input_size=given.size, views="training"
    )
    batch_size = min(given.batch, len(clips))
    on_cuda = precision.device.type == "cuda"
    loader = training_batches(dataset, EpochBatches(len(clips), batch_size), workers=given.workers, pin_memory=on_cuda)
    bench = Bench(given, next(loader), precision, compiled=False)
    step = bench.step(3, taught=True)
    step()
    waited, steps = 0.0, max(given.repeats, 7)
    started = time.perf_counter()
    for _ in tqdm(range(steps), desc="data", unit="step", disable=None):
        asked = time.perf_counter()
        batch = next(loader)
        waited += time.perf_counter() - asked
        updated, _ = replace(step, batch=batch.to(precision.device))()
        float(updated.total)  # waits for the step, as the log does
    seconds = time.perf_counter() - started
    return {
        "share": waited / seconds,
        "samples_per_second": steps * batch_size / seconds,
        "workers": given.workers,
        "manifest": given.manifest.name,
        "precision": precision.name,
    }


def bars_of(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each limit that this run measures, its value, and whether it is met; of several precisions, the worst."""
    ratios = [each["ratios"] for each in report["measured"].values()]
    found = {name: max(each[name] for each in ratios) for name in BARS if name in ratios[0]}
    if "bf16" in report["speed_up_over_fp32"] and report["device"] == "cuda":  # CPUs are not promised to be faster
        found["bf16: speed-up of the taught step over fp32"] = report["speed_up_over_fp32"]["bf16"]
    if "data" in report:
        found["data: share of time waiting"] = report["data"]["share"]
    return {
        name: {"value": value, BARS[name][0]: BARS[name][1], "met": meets(value, *BARS[name])}
        for name, value in found.items()
    }


def meets(value: float, kind: str, limit: float) -> bool:
    """Whether a value is within its limit."""
    return value <= limit if kind == "at most" else value >= limit


def precisions_of(given: argparse.Namespace, device: torch.device) -> list[Precision]:
    """The precisions to time, by default all that the device has.

    Raises:
        SystemExit: one is unknown, or the device does not have it.
    """
    accepted = PRECISIONS[device.type]
    wanted = given.precisions.split(",") if given.precisions else accepted
    if unknown := sorted({*wanted} - {*accepted}):
        raise SystemExit(f"--precisions {','.join(unknown)} (accepted on {device.type}: {', '.join(accepted)})")
    return [Precision(name, device) for name in accepted if name in wanted]


def table(report: Mapping[str, Any]) -> str:
    """Times, ratios and limits, as text."""
    lines = []
    for name, each in report["measured"].items():
        lines.append(name)
        lines += [f"  {what:<64}{1000 * value:10.1f} ms" for what, value in each["seconds"].items()]
        lines += [f"  {what:<64}{value:10.3f}" for what, value in each["ratios"].items()]
    for name, bar in report["bars"].items():
        lines.append(f"{'met   ' if bar['met'] else 'MISSED'} {name}: {bar['value']:.3f}")
    return "\n".join(lines)


def main() -> None:
    """The program."""
    given = arguments()
    device = pick_device(given.device)
    precisions = precisions_of(given, device)
    torch.backends.cudnn.benchmark = device.type == "cuda"  # as in a training
    measured = {}
    for compiled in (False, True) if given.compiled else (False,):
        for precision in precisions:
            key = f"{precision.name}, compiled" if compiled else precision.name
            with precision.in_effect():
                measured[key] = measure(given, precision, compiled=compiled)
    taught = {name: each["seconds"]["three students, teachers"] for name, each in measured.items()}
    report: dict[str, Any] = {
        **provenance(("torch",), threads=torch.get_num_threads(), gpu=device.type == "cuda"),
        "device": device.type,
        "settings": {key: str(value) for key, value in vars(given).items() if key != "results"},
        "measured": measured,
        "speed_up_over_fp32": {name: taught["fp32"] / value for name, value in taught.items() if "fp32" in taught},
    }
    if given.manifest:
        report["data"] = waiting(given, Precision("bf16" if device.type == "cuda" else "fp32", device))
    report["bars"] = bars_of(report)
    print(f"{table(report)}\n{write(f'bench_step-{device.type}', report, folder=given.results)}")


if __name__ == "__main__":
    main()
