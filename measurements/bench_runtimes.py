"""Students by PyTorch, by ONNX Runtime, and by ONNX Runtime in 8 bits: time to the first label, time of a video, accuracy.

    OMP_NUM_THREADS=1 .venv/bin/python measurements/bench_runtimes.py RUN … [--clip FILE] [--starts 5] [--videos 30] [--exports FOLDER]

RUN is a folder of `videokd distill` or `videokd teach`, with its manifest where it was. Each is exported three times; int8 is calibrated with 64 of
its training clips (half of them measure ranges, half choose among three shares of values that these cover), and accuracy is that on the test clips of its split, one central crop, in as many segments as `predict` takes.

  start    seconds of `videokd predict FILE --students …` in a new process, from its start to its end, and its processor time. PyTorch and ONNX Runtime
           take turns, and the first start of each, which compiles loops and fills the file cache, is not counted.
  network  milliseconds of a video from streams to probabilities in one thread. For each video the runtimes take turns; the ratios are medians over
           videos of the ratio in one turn.

--clip is the file of the starts, by default the first test clip of the first run. Writes results/runtimes-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from record import provenance, write
from videokd.__main__ import main as videokd
from videokd.datasets.dataset import ClipDataset
from videokd.exports.calibration import calibration_clips, videos_of
from videokd.prediction.loading import load_predictor
from videokd.prediction.predictor import Predictor
from videokd.runs.run_folder import TrainedRun, load_run
from videokd.runs.trained_on import tested_clips

#: How a runtime's students are named in an export's folder.
FILES = {"PyTorch": "torch", "ONNX Runtime": "graph/students.onnx", "ONNX Runtime, int8": "graph/students.int8.onnx"}
PACKAGES = ("torch", "timm", "onnxruntime", "numba", "av", "numpy")


def exported(run: Path, folder: Path) -> dict[str, Path]:
    """{runtime: its students}, exported where they are not yet."""
    for name, options in (("torch", []), ("graph", ["--format=onnx", "--int8"])):
        if not (folder / name).is_dir() and videokd(["export", str(run), f"--out={folder / name}", *options]) != 0:
            raise SystemExit(f"{run} could not be exported")
    return {runtime: folder / name for runtime, name in FILES.items()}


def test_clips(run: TrainedRun) -> ClipDataset:
    """The test clips of a run's split, as `predict` sees them."""
    some = calibration_clips(run, most=1)
    return replace(some, clips=tested_clips(some.manifest, split=run.settings.split))


def starts(files: Mapping[str, Path], clip: Path, *, repeats: int) -> dict[str, Any]:
    """Wall and processor seconds of a process that predicts one file, the runtimes taking turns."""
    seconds: dict[str, list[tuple[float, float]]] = {runtime: [] for runtime in files}
    for _ in range(repeats + 1):
        for runtime, students in files.items():
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            command = [sys.executable, "-m", "videokd", "predict", str(clip), f"--students={students}", "--device=cpu"]
            subprocess.run(command, check=True, capture_output=True)
            wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
            busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            seconds[runtime].append((wall, busy))
    counted = {runtime: np.array(values[1:]) for runtime, values in seconds.items()}
    base = counted["PyTorch"]
    return {
        runtime: {
            "seconds": [round(float(value), 3) for value in np.median(values, axis=0)],
            "to_pytorch": [round(float(value), 3) for value in np.median(values / base, axis=0)],
        }
        for runtime, values in counted.items()
    }


def answers(
    predictors: Mapping[str, Predictor], clips: ClipDataset, *, timed: int
) -> tuple[dict[str, npt.NDArray[np.int64]], dict[str, list[float]]]:
    """{runtime: the label of each clip}, and {runtime: seconds of each of the first `timed` clips}, in turns."""
    labels: dict[str, list[int]] = {runtime: [] for runtime in predictors}
    seconds: dict[str, list[float]] = {runtime: [] for runtime in predictors}
    for number, video in enumerate(videos_of(clips)):
        for runtime, predictor in predictors.items():
            started = time.perf_counter()
            answer = predictor(video, names=["clip"])
            if 0 < number <= timed:  # the first one warms up
                seconds[runtime].append(time.perf_counter() - started)
            labels[runtime].append(int(answer.probabilities[0].argmax()))
    return {runtime: np.array(values) for runtime, values in labels.items()}, seconds


def measured(path: Path, files: Mapping[str, Path], *, timed: int) -> dict[str, Any]:
    """Accuracy and time of a run's students in each runtime."""
    run = load_run(path)
    clips = test_clips(run)
    predictors = {
        runtime: load_predictor(students, device="cpu", precision="fp32") for runtime, students in files.items()
    }
    found, seconds = answers(predictors, clips, timed=timed)
    true = np.array([clip.label for clip in clips.clips])
    base, single = seconds["PyTorch"], seconds["ONNX Runtime"]
    rows = {
        runtime: {
            "top1": round(100 * float((labels == true).mean()), 2),
            "same_as_pytorch": round(100 * float((labels == found["PyTorch"]).mean()), 2),
            "ms": round(1000 * statistics.median(seconds[runtime]), 2),
            "to_pytorch": round(statistics.median(a / b for a, b in zip(seconds[runtime], base, strict=True)), 3),
            "to_fp32": round(statistics.median(a / b for a, b in zip(seconds[runtime], single, strict=True)), 3),
            "megabytes": round(_size(files[runtime]) / 1e6, 2),
        }
        for runtime, labels in found.items()
    }
    specs = run.students.specs.values()
    return {
        "run": f"{path.parent.name}/{path.name}",
        "students": ", ".join(
            f"{spec.backbone} on {'+'.join(spec.streams)}, {spec.input_size} pixels" for spec in specs
        ),
        "parameters": sum(values.numel() for values in run.students.members.parameters()),
        "test_clips": len(true),
        "runtimes": rows,
        "int8": _how(files["ONNX Runtime, int8"]),
    }


def _how(graph: Path) -> dict[str, Any]:
    """What a graph in 8 bits says of how it was made."""
    texts = onnxruntime.InferenceSession(graph.read_bytes()).get_modelmeta().custom_metadata_map
    how: dict[str, Any] = json.loads(texts["int8"])
    return how


def _size(path: Path) -> int:
    return (path / "students.safetensors" if path.is_dir() else path).stat().st_size


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--videos", type=int, default=30)
    parser.add_argument("--exports", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.exports or Path(temporary)
        files = {run: exported(run, folder / f"{run.parent.name}-{run.name}") for run in given.runs}
        first = test_clips(load_run(given.runs[0]))
        clip = given.clip or first.manifest.file(first.clips[0])
        start = starts(files[given.runs[0]], clip, repeats=given.starts)
        print(start)
        rows = []
        for run in given.runs:
            rows.append(measured(run, files[run], timed=given.videos))
            print(rows[-1])
    write("runtimes", {**provenance(PACKAGES, threads=1), "start": start, "starts": given.starts, "rows": rows})


if __name__ == "__main__":
    main()
