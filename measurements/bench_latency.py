"""Time from a file to its label: students on codec streams, and other networks on the same machine.

    .venv/bin/python measurements/bench_latency.py FOLDER [--students EXPORT] [--videos 12] [--repeats 3] [--threads 1]
        [--device cpu|cuda] [--study measurements/results/study-DATE.json --top1 SYSTEM=RUN[:ENTRY] …] [--plot FILE.svg]

FOLDER holds clips, in folders of classes or not; they are read as they are, and in the training form that `videokd prepare` writes.
Each video goes through every system in turn, so that a busy machine slows all of them alike, and times are compared video by video.
Systems, all with S segments, and the same backbone and input size where they have one:

  iframe       the student of the I-frame
  three        the students of I-frame, motion and residual
  transcoded   the same, each file first transcoded to the training form (for files as they are)
  rgb          one network on S RGB frames that decord decodes
  r2plus1d     torchvision's r2plus1d_18 on 16 RGB frames by decord, spread over the clip
  two-stream…  one network on S RGB frames by decord, one on S stacks of 5 optical flow fields (x and y, 10 channels) by OpenCV
               between 6 frames that start at each of these, at the clips' full size (Simonyan and Zisserman 2014; Wang et al. 2016);
               with DIS at its presets fast (OpenCV's default) and medium, and with Farneback's flow

Weights are random unless --students gives an export: times do not depend on them. One thread decodes, everywhere; --threads is for
PyTorch and OpenCV. With --top1, accuracies come from the study or from the results of trained runs, and the Pareto front is drawn.
OpenCV comes with `pip install videokd[bench]`; without it, two-stream is skipped with a note.
Writes results/bench_latency-DEVICE-[LABEL-]DATE.json, and prints its table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from latency_systems import SEED, System, all_systems
from record import RESULTS, provenance, write
from stopwatch import STAGES, Stopwatch
from videokd.evaluation.figures import Point, cost_figure, pareto_front
from videokd.evaluation.results import as_plain, read_results
from videokd.runs.device import Precision, pick_device
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import transcode

BATCH = 8
PACKAGES = ("torch", "torchvision", "timm", "av", "numba", "decord", "opencv-python-headless", "opencv-python")
#: (bar, system that must be slower, stages, system, at least this many times as slow)
BARS = (
    ("I-frames, before the network: times as fast as decord's RGB frames", "rgb", STAGES[:3], "iframe", 5.0),
    ("three streams, before the network: times as fast as decord's RGB frames", "rgb", STAGES[:3], "three", 1.0),
    *(
        (
            f"three streams, before the network: times as fast as decoding and {method}",
            f"two-stream-{method}",
            STAGES[:3],
            "three",
            20.0,
        )
        for method in ("dis-fast", "dis-medium", "farneback")
    ),
    ("three students, file to label: times as fast as r2plus1d_18", "r2plus1d", STAGES, "three", 10.0),
)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--students", type=Path, help="export of three students, one a stream; by default random ones")
    parser.add_argument("--backbone", default="resnet10t", help="without --students")
    parser.add_argument("--size", type=int, default=96, help="input size in pixels, without --students")
    parser.add_argument(
        "--clip-side", type=int, default=112, help="of r2plus1d's input; 112 is what it was published with"
    )
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--videos", type=int, default=12, help="spread over the folder")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument(
        "--clock", default="wall", choices=("wall", "cpu"), help="cpu: of all threads, on a busy machine"
    )
    parser.add_argument(
        "--throughput-seconds", type=float, default=5.0, help="of each system and form; 0 leaves it out"
    )
    parser.add_argument(
        "--top1",
        nargs="+",
        default=[],
        metavar="SYSTEM=RUN[:ENTRY]",
        help="runs trained alike; RUN of --study, or a folder",
    )
    parser.add_argument(
        "--study", type=Path, help="result of measurements/study_sum.py: accuracies pooled over its cells"
    )
    parser.add_argument("--dataset", default="ucf101-6", help="of the study")
    parser.add_argument("--plot", type=Path, help="SVG of accuracy over time; needs --top1")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--label", default="", help="a word for the JSON's name, before the date")
    return parser.parse_args()


def clips_of(folder: Path, count: int) -> list[Path]:
    """Clips evenly chosen from a folder and those below it."""
    suffixes = {".avi", ".mp4", ".mkv", ".mpg", ".mov"}
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not files:
        raise SystemExit(f"{folder} has no clips (accepted: {', '.join(sorted(suffixes))})")
    return [files[at] for at in np.unique(np.linspace(0, len(files) - 1, count).astype(int))]


def to_label(system: System, path: Path, watch: Stopwatch, precision: Precision) -> None:
    """One video, from its file to its label, timed by stage."""
    watch.start()
    batch = system.read(path)
    with watch.stage("network"), torch.inference_mode(), precision.autocast():
        batch = {name: values.to(precision.device) for name, values in batch.items()}
        int(system.network(batch)[0].argmax())
    watch.switch("streams")


def latencies(
    systems: Sequence[System], clips: Sequence[Path], given: argparse.Namespace, watch: Stopwatch, precision: Precision
) -> dict[str, np.ndarray]:
    """{system: milliseconds [videos, repeats, stages]}."""
    taken = {system.name: np.zeros((len(clips), given.repeats, len(STAGES))) for system in systems}
    with watch.on_videokd():
        for system in systems:
            to_label(system, clips[0], watch, precision)  # compiles what is compiled
        shown = tqdm(range(len(clips)), desc="latency", unit="video", disable=None)
        for video, repeat in itertools.product(shown, range(given.repeats)):
            for system in systems:
                to_label(system, clips[video], watch, precision)
                taken[system.name][video, repeat] = [1e3 * watch.seconds[stage] for stage in STAGES]
    return taken


def throughput(system: System, clips: Sequence[Path], given: argparse.Namespace, precision: Precision) -> float:
    """Videos a second: as many threads as cores read ahead, and the network takes batches."""
    cores = os.cpu_count() or 1
    done, started = 0, 0.0
    torch.set_num_threads(cores)
    with ThreadPoolExecutor(cores) as pool, torch.inference_mode(), precision.autocast():
        ahead = [pool.submit(system.read, path) for path in itertools.islice(itertools.cycle(clips), 3 * BATCH)]
        upcoming = itertools.islice(itertools.cycle(clips), 3 * BATCH % len(clips), None)
        while not started or time.perf_counter() - started < given.throughput_seconds:
            parts = [ahead.pop(0).result() for _ in range(BATCH)]
            ahead += [pool.submit(system.read, next(upcoming)) for _ in range(BATCH)]
            together = {name: torch.cat([part[name] for part in parts]).to(precision.device) for name in parts[0]}
            system.network(together).argmax(1).tolist()
            done += BATCH if started else 0
            started = started or time.perf_counter()  # the first batch warms up
        rate = done / (time.perf_counter() - started)
        for waiting in ahead:
            waiting.cancel()
    torch.set_num_threads(given.threads)
    return rate


def summary(milliseconds: np.ndarray) -> dict[str, Any]:
    """Median and 95th percentile of the time, and the median of each stage."""
    stages = {stage: float(np.median(milliseconds[..., at])) for at, stage in enumerate(STAGES)}
    p50, p95 = np.percentile(milliseconds.sum(axis=2), (50, 95))
    return {"p50_ms": float(p50), "p95_ms": float(p95), "stages_ms": stages}


def ratios(taken: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The bars' ratios: each video's medians over its repeats are compared, then the median over videos is taken."""
    found = {}
    for label, slower, stages, faster, _ in BARS:
        if slower in taken and faster in taken:
            chosen = [STAGES.index(stage) for stage in stages]
            each = (np.median(taken[name][..., chosen].sum(axis=2), axis=1) for name in (slower, faster))
            found[label] = float(np.median(np.divide(*each)))
    return found


def measure(
    systems: Sequence[System], clips: Sequence[Path], given: argparse.Namespace, watch: Stopwatch, precision: Precision
) -> dict[str, Any]:
    """Times, throughput and ratios of all systems on one form of the clips."""
    taken = latencies(systems, clips, given, watch, precision)
    measured = {system.name: {"about": system.about, **summary(taken[system.name])} for system in systems}
    if given.throughput_seconds:
        watch.running = False  # it belongs to one thread
        for system in tqdm(systems, desc="throughput", unit="system", disable=None):
            measured[system.name]["videos_a_second"] = throughput(system, clips, given, precision)
        watch.running = True
    return {"systems": measured, "ratios": ratios(taken)}


def accuracies(given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """{system: top-1 with its interval}, from runs that were evaluated."""
    found = {}
    study = json.loads(given.study.read_text())["beside_baselines"]["top1"] if given.study else {}
    for word in given.top1:
        system, _, run = word.partition("=")
        folder, _, entry = run.partition(":")
        if f"{folder}:{entry}" in study:
            found[system] = study[f"{folder}:{entry}"][given.dataset]
            continue
        entries = as_plain(read_results(folder))["entries"]
        if entry and entry not in entries:
            raise SystemExit(f"{folder} has no entry {entry} (accepted: {', '.join(entries)})")
        found[system] = entries[entry or ("fused" if "fused" in entries else next(iter(entries)))]["metrics"]["top1"]
    return found


def on_the_front(measured: Mapping[str, Any], top1: Mapping[str, Any]) -> tuple[list[Point], list[str]]:
    """Accuracy over time of the systems of which both are known, and the names of those that no other beats."""
    roles = {"iframe": "student", "three": "students fused", "transcoded": "students fused"}
    points = [
        Point(
            name,
            roles.get(name, "other"),
            system["p50_ms"],
            *(100 * top1[name][key] for key in ("value", "low", "high")),
        )
        for name, system in measured["systems"].items()
        if name in top1
    ]
    return points, [point.name for point in pareto_front(points)]


def standalone(svg: str) -> str:
    """The figure as a file of its own, on white, and not as a part of a page."""
    for variable, colour in (("ink", "#171c26"), ("faint", "#5c6675"), ("line", "#d9dee6"), ("paper", "#ffffff")):
        svg = svg.replace(f"var(--{variable})", colour)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return svg.replace("<svg", f'<svg {names} style="background:#ffffff" font-family="sans-serif"', 1) + "\n"


def table(name: str, measured: Mapping[str, Any]) -> str:
    """The figures of one form, as text."""
    lines = [
        f"\n{name}",
        f"  {'':<12}{'p50 ms':>9}{'p95 ms':>9}" + "".join(f"{s:>9}" for s in STAGES) + f"{'videos/s':>10}",
    ]
    for system, values in measured["systems"].items():
        stages = "".join(f"{values['stages_ms'][stage]:9.1f}" for stage in STAGES)
        rate = f"{values['videos_a_second']:10.1f}" if "videos_a_second" in values else ""
        lines.append(f"  {system:<12}{values['p50_ms']:9.1f}{values['p95_ms']:9.1f}{stages}{rate}")
    for label, _, _, _, least in BARS:
        if label in measured["ratios"]:
            value = measured["ratios"][label]
            lines.append(f"  {label:<76}{value:7.2f}  {'met' if value >= least else 'MISSED'}: at least {least:g}")
    if "pareto_front" in measured:
        lines.append(f"  accuracy over time, on the Pareto front: {', '.join(measured['pareto_front'])}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The program."""
    given = arguments()
    device = pick_device(given.device)
    given.device = device
    torch.set_num_threads(given.threads)
    precision = Precision(given.precision, device)
    watch = Stopwatch(time.process_time if given.clock == "cpu" else time.perf_counter, device)
    about = provenance(PACKAGES, threads=given.threads, gpu=device.type == "cuda")
    top1 = accuracies(given)
    systems = all_systems(given, watch)
    clips = clips_of(given.folder, given.videos)
    forms: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        prepared = [Path(work) / f"{number}-{path.stem}.mp4" for number, path in enumerate(clips)]
        for source, target in zip(clips, prepared, strict=True):
            transcode(source, target, Encoding())
        in_form = [system for system in systems if system.name != "transcoded"]
        forms["training form"] = measure(in_form, prepared, given, watch, precision)
        forms["as shipped"] = measure(systems, clips, given, watch, precision)
    for measured in forms.values():
        points, front = on_the_front(measured, top1)
        if len(points) > 1:
            measured.update(top1=top1, pareto_front=front)
    report = about | {
        "settings": {key: str(value) for key, value in vars(given).items()} | {"seed": SEED, "batch": BATCH},
        "weights": "an export's" if given.students else "random: they change no time",
        "clips": len(clips),
        "forms": forms,
    }
    label = f"-{given.label}" if given.label else ""
    target = write(f"bench_latency-{device.type}{label}", report, folder=given.out)
    if given.plot and top1:
        points, _ = on_the_front(forms["training form"], top1)
        given.plot.write_text(standalone(cost_figure(points, cost="ms from file to label")))
    print("\n".join(table(name, measured) for name, measured in forms.items()) + f"\n{target}")


if __name__ == "__main__":
    main()
