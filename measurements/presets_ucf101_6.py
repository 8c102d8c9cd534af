"""Every preset of the three systems, made small, on six classes of UCF101: trained, stopped, resumed, evaluated, exported, used.

    .venv/bin/python measurements/presets_ucf101_6.py DATA [OUT] [--epochs 10] [--teacher-epochs 10] [--cache DIR]

DATA is the folder that `videokd prepare folder UCF101-6 --out DATA --frame-rate 25` wrote; OUT is runs/presets-ucf101-6 by default. The
presets keep their structure (streams, losses, weights); backbone, picture size, batch and epochs are overridden. Each training is stopped
by SIGTERM in the middle of an epoch, and resumed by the same command. The same command resumes this program, too. At the end it writes
results/presets-DATE.json and prints a table. One thread; about 25 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from markdown import percent
from record import CODEC_STREAMS as STREAMS
from record import RESULTS, provenance, write
from timing import processor_seconds
from videokd.datasets.manifest import Manifest
from videokd.evaluation.results import as_plain, read_results
from videokd.recipes.command_line import preset_names, preset_text

STOPPED = 130  # exit status of a run that was asked to stop, and saved
_POLL_SECONDS = 0.05


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=Path("runs/presets-ucf101-6"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--teacher-epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--student", default="test_resnet")
    parser.add_argument("--teacher", default="resnet10t")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--cache", type=Path, help="decoded clips; by default OUT/cache")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def systems() -> dict[str, dict[str, Any]]:
    """The presets of the three systems at full size, by name: those of `videokd distill` that come with no dataset's name."""
    presets = {name: yaml.safe_load(preset_text(name)) for name in preset_names()}
    return {
        name: preset
        for name, preset in presets.items()
        if "students" in preset and not name.startswith(("demo", "ucf101", "hmdb51"))
    }


def common(given: argparse.Namespace, *, epochs: int) -> list[str]:
    """Options that all trainings share."""
    return [
        *("--manifest", str(given.data), "--init", "none", "--precision", "fp32", "--device", "cpu"),
        *("--data.input_size", str(given.size), "--data.batch_size", str(given.batch), "--data.workers", "1"),
        *("--data.val_fraction", "0", "--data.cache", str(given.cache or given.out / "cache")),
        *("--optim.lr", "0.001", "--optim.epochs", str(epochs), "--optim.warmup_epochs", str(min(1, epochs // 2))),
    ]


def videokd(*command: str, expected: int = 0) -> str:
    """Runs a verb; returns its standard output."""
    done = subprocess.run([sys.executable, "-m", "videokd", *command], check=False, capture_output=True, text=True)
    if done.returncode != expected:
        sys.exit(f"videokd {shlex.join(command)}\nended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def steps_in(run: Path) -> int:
    """Steps that a run has logged."""
    log = run / "log.jsonl"
    return sum("loss/total" in line for line in log.read_text().splitlines()) if log.exists() else 0


def train_with_a_stop(command: list[str], run: Path, *, stop_after: int) -> dict[str, Any]:
    """Starts a training, stops it as Ctrl-C or a scheduler would, and resumes it; returns the step at which it stopped."""
    if run.exists():  # this program was interrupted before it finished the preset
        shutil.rmtree(run)
    running = subprocess.Popen([sys.executable, "-m", "videokd", *command], stderr=subprocess.PIPE, text=True)
    while running.poll() is None and steps_in(run) < stop_after:
        time.sleep(_POLL_SECONDS)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate()
    if running.returncode != STOPPED:
        sys.exit(
            f"videokd {shlex.join(command)}\nwas stopped, and ended with status {running.returncode} (expected: {STOPPED}):\n{errors[-3000:]}"
        )
    stopped = steps_in(run)
    videokd(*command)
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines() if "loss/total" in line]
    assert steps == list(range(len(steps))), f"{run}: a step is missing or double after resuming"
    assert len(steps) > stopped, f"{run}: nothing was left to resume"
    return {"stopped_after_step": stopped, "steps": len(steps)}


def run_preset(name: str, preset: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """Trains (with a stop), evaluates and exports the students of a preset, and predicts a clip with them."""
    run, exported = given.out / name, given.out / f"{name}-students"
    record = given.out / f"{name}.json"
    command = ["distill", "--config", name, "--out", str(run), *common(given, epochs=given.epochs)]
    for student in preset["students"]:
        command += [f"--students.{student}.backbone", given.student]
    if preset["objective"].get("alpha"):
        command += [part for stream in STREAMS for part in (f"--teachers.{stream}", str(given.out / stream))]
    if (known := recorded(record, command)) is not None:
        return known
    started, cpu = time.perf_counter(), processor_seconds(of_this_process=False)
    clips = Manifest.read(given.data)
    per_epoch = max(len(clips.select("train", split=1)) // given.batch, 1)
    trained = train_with_a_stop(command, run, stop_after=max(per_epoch * given.epochs // 3, 1))
    seconds = {"train": time.perf_counter() - started}
    videokd("evaluate", str(run), "--views", "quick", "--timed_videos", "0", "--pictures", "0", "--workers", "1")
    exits = bool(preset["objective"].get("exits"))
    videokd("export", str(run), "--out", str(exported), *(["--exits"] if exits else []))
    clip = clips.select("test", split=1)[0]
    file = str(clips.root / clip.path)
    early = ["--exit_threshold", "0.9"] if exits else []
    (prediction,) = json.loads(videokd("predict", file, "--students", str(exported), "--format", "json", *early))
    seconds["all"] = time.perf_counter() - started
    results = as_plain(read_results(run))
    made = {
        "command": "videokd " + shlex.join(command),
        **trained,
        "seconds": seconds,
        "cpu_seconds": processor_seconds(of_this_process=False) - cpu,
        "entries": {
            key: {"top1": entry["metrics"]["top1"]} | {k: entry[k] for k in ("parameters", "macs_per_video")}
            for key, entry in results["entries"].items()
        },
        "early_exit": results.get("early_exit", {}),
        "exported": sorted(path.name for path in exported.iterdir()),
        "prediction": {"video": clip.video_id, "label": clip.class_name, **prediction["labels"][0]}
        | {"exits": prediction["exits"]},
    }
    record.write_text(json.dumps(made, indent=1) + "\n")
    return made


def recorded(record: Path, command: list[str]) -> dict[str, Any] | None:
    """The record of an earlier start of this program, if it ran the same command."""
    known: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    return known if known.get("command") == "videokd " + shlex.join(command) else None


def teach(stream: str, given: argparse.Namespace) -> dict[str, Any]:
    """Trains and evaluates a stream's teacher."""
    run, record = given.out / stream, given.out / f"{stream}.json"
    command = ["teach", "--stream", stream, "--backbone", given.teacher, "--out", str(run)]
    command += common(given, epochs=given.teacher_epochs)
    if (known := recorded(record, command)) is not None:
        return known
    started = time.perf_counter()
    videokd(*command)
    videokd("evaluate", str(run), "--views", "quick", "--timed_videos", "0", "--pictures", "0", "--workers", "1")
    entry = as_plain(read_results(run))["entries"][stream]
    made = {
        "command": "videokd " + shlex.join(command),
        "top1": entry["metrics"]["top1"],
        "parameters": entry["parameters"],
        "seconds": time.perf_counter() - started,
    }
    record.write_text(json.dumps(made, indent=1) + "\n")
    return made


def main() -> None:
    """The program."""
    given = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    given.out.mkdir(parents=True, exist_ok=True)
    teachers = {}
    for stream in STREAMS:
        teachers[stream] = teach(stream, given)
        print(
            f"| teacher {stream} | {percent(teachers[stream]['top1'])} | {teachers[stream]['seconds']:.0f} s |",
            flush=True,
        )
    presets = {}
    for name, preset in systems().items():
        presets[name] = each = run_preset(name, preset, given)
        last = "fused" if "fused" in each["entries"] else next(iter(each["entries"]))
        top1 = percent(each["entries"][last]["top1"])
        print(f"| {name} | {last} | {top1} | {each['seconds']['all']:.0f} s | `{each['command']}` |", flush=True)
    report = provenance(("torch",), threads=1) | {
        "title": "Every preset, made small, on six classes of UCF101, official split 1",
        "note": f"{given.student} students and {given.teacher} teachers from scratch at {given.size} pixels, quick views, one seed.",
        "teachers": teachers,
        "presets": presets,
    }
    print(write("presets", report, folder=given.results))


if __name__ == "__main__":
    main()
