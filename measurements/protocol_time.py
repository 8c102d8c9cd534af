"""How long the full protocol takes, from the presets and from what was measured: the generated part of docs/protocol.md.

`measurements/pages.py` writes it into the page. Work is counted: clips read in training and testing, and multiply-accumulates of
networks (a step counts as three forward passes). Rates come from the newest bench_data (preparing and reading), bench_step-cpu and
bench_step-cuda (a training step of one student). Where a rate was not measured, no time is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml

from markdown import Results, grid, link, machine_text
from record import CODEC_STREAMS, newest
from videokd.evaluation.cost import macs
from videokd.models.backbone import Network
from videokd.models.network_spec import NetworkSpec
from videokd.recipes.command_line import preset_text
from videokd.types import STREAMS

SIZE = 224
VIEWS = 25 * 10  # segments and crops of CoViAR's test
FORWARD_PASSES_A_STEP = 3  # backward costs about two
#: Clips, of them in training and in test of the first split, and CoViAR's epochs for each stream
DATASETS: dict[str, dict[str, Any]] = {
    "UCF101": {"clips": 13_320, "train": 9_537, "test": 3_783, "epochs": (510, 510, 510)},
    "HMDB51": {"clips": 6_766, "train": 3_570, "test": 1_530, "epochs": (220, 360, 300)},
}


@dataclass(frozen=True)
class Job:
    """A part of the protocol on one split.

    Args:
        name: what it does.
        visits: clips read.
        macs: multiply-accumulates in all.
        reading: whose rate of reading in bench_data is the nearest; None: not measured.
    """

    name: str
    visits: int
    macs: float
    reading: str | None


def preset(name: str) -> dict[str, Any]:
    """A preset that comes with videokd."""
    return yaml.safe_load(preset_text(name))


def macs_a_picture(stream: str, backbone: str, size: int = SIZE) -> int:
    """Multiply-accumulates of one picture; counted without memory or computation."""
    with torch.device("meta"):
        network = Network(NetworkSpec((stream,), backbone, 101, size))
        pictures = torch.zeros(1, 1, STREAMS[stream].channels, size, size, dtype=torch.uint8)
    return macs(network, {stream: pictures})


def jobs(dataset: Mapping[str, Any]) -> list[Job]:
    """The parts of the protocol on one split of a dataset."""
    found = []
    teachers = {stream: preset(f"coviar-{stream}") for stream in CODEC_STREAMS}
    forward = {stream: macs_a_picture(stream, teachers[stream]["backbone"]) for stream in CODEC_STREAMS}
    measured = {"iframe": "iframe", "motion": "motion", "residual": "iframe+motion+residual"}
    for stream, epochs in zip(CODEC_STREAMS, dataset["epochs"], strict=True):
        visits = epochs * dataset["train"]
        cost = visits * teachers[stream]["data"]["num_segments"] * FORWARD_PASSES_A_STEP * forward[stream]
        found.append(Job(f"teach {stream}, {teachers[stream]['backbone']}", visits, cost, measured[stream]))
    students = preset("mtkd-three")
    alone = [macs_a_picture(spec["streams"][0], spec["backbone"]) for spec in students["students"].values()]
    visits = students["optim"]["epochs"] * dataset["train"]
    a_picture = FORWARD_PASSES_A_STEP * sum(alone) + sum(forward.values())
    cost = visits * students["data"]["num_segments"] * a_picture
    found.append(Job("distill mtkd-three", visits, cost, "iframe+motion+residual"))
    cost = dataset["test"] * VIEWS * (sum(forward.values()) + sum(alone))
    found.append(Job("evaluate teachers and students", 2 * dataset["test"], cost, None))
    return found


def step_rate(results: Results) -> tuple[str, float]:
    """(what it was measured on, multiply-accumulates a second) of a training step of one student, at its fastest precision."""
    settings = results["settings"]
    passes = int(settings["batch"]) * int(settings["segments"]) * FORWARD_PASSES_A_STEP
    work = passes * macs_a_picture("iframe", settings["student"], int(settings["size"]))
    name, measured = min(results["measured"].items(), key=lambda item: item[1]["seconds"]["one student"])
    return f"{machine_text(results)}, {name}", work / measured["seconds"]["one student"]


def hours(value: float) -> str:
    """One decimal below ten."""
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def reading_rates(data: Results | None) -> dict[str, float]:
    """{streams: clips a second} at as many workers as were measured; reading scales with cores until the disk is full."""
    rates = {}
    for streams, by_workers in (data["loader"] if data else {}).items():
        if isinstance(by_workers, dict):
            most = max(name for name in by_workers if "workers" in name)
            rates[streams] = float(by_workers[most]["samples_per_second"])
    return rates


def rows_of(dataset: str, reading: Mapping[str, float], rates: Sequence[float]) -> list[tuple[str, ...]]:
    """The rows of one dataset: its jobs, then their sum."""
    rows: list[tuple[str, ...]] = []
    all_macs = all_reading = 0.0
    for job in jobs(DATASETS[dataset]):
        rate_of_reading = reading.get(job.reading or "")
        spent = job.visits / rate_of_reading / 3600 if rate_of_reading else None
        all_macs, all_reading = all_macs + job.macs, all_reading + (spent or 0.0)
        shown = "not measured" if spent is None else hours(spent)
        times = (hours(job.macs / rate / 3600) for rate in rates)
        rows.append(
            (f"{dataset}: {job.name}", f"{job.visits / 1e6:.2f}", f"{job.macs / 1e15:,.1f}", shown, *times),
        )
    totals = (all_reading, *(all_macs / rate / 3600 for rate in rates))
    bold = (f"**{hours(total)}**" for total in totals)
    return [*rows, (f"**{dataset}: all of it**", "", f"**{all_macs / 1e15:,.0f}**", *bold)]


def lines() -> list[str]:
    """The generated part of docs/protocol.md."""
    data = newest("bench_data")
    steps = {device: results for device in ("cpu", "cuda") if (results := newest(f"bench_step-{device}"))}
    rates = [step_rate(results) for results in steps.values()]
    reading = reading_rates(data)
    head = (
        "part, one split",
        "clips read, million",
        "PMACs",
        "reading, hours",
        *(f"{name}, hours" for name, _ in rates),
    )
    rows = [row for dataset in DATASETS for row in rows_of(dataset, reading, [rate for _, rate in rates])]
    return [*grid(head, rows), "", *notes(data, rates, with_gpu="cuda" in steps)]


def notes(data: Results | None, rates: Sequence[tuple[str, float]], *, with_gpu: bool) -> list[str]:
    """What the rows count, where the rates are from, and what was not measured."""
    found = [
        "Three splits take three times as long. PMACs: 10¹⁵ multiply-accumulates, a training step counted as three forward passes."
    ]
    if data:
        processor = f"{data['machine']['processor']}, {data['machine']['cores']} cores"
        made = data["jobs"]["2 jobs"]["clips_per_second"]
        clips = ", ".join(f"{name} {about['clips'] / made / 60:.0f} minutes" for name, about in DATASETS.items())
        found.append(
            f"Reading: decoding, cropping and resizing three segments, at the clips a second that 2 workers gave on {processor}; residual alone was not measured, "
            f"and counts as all three streams. More cores divide it. Preparing, with 2 jobs there: {clips}. "
            f"From {link(data)}."
        )
    found += [
        f"Computing on {name}: at the {rate / 1e9:,.0f} GMACs a second measured for a training step of one student."
        for name, rate in rates
    ]
    if not with_gpu:
        found.append(
            "**No GPU was measured.** Divide the PMACs by what your card sustains in training: at 20 TMACs a second, which is an assumption and "
            "not a measurement, UCF101's take "
            f"{sum(job.macs for job in jobs(DATASETS['UCF101'])) / 20e12 / 3600:.0f} hours a split. `measurements/bench_step.py` measures a card."
        )
    return found
