"""`videokd predict` on an archive: two processes against one, and one against decoding and the network measured separately.

    .venv/bin/python measurements/bench_predict_archive.py FOLDER [--clips 600] [--students EXPORT] [--repeats 3] [--out DIR]

FOLDER holds clips, at any depth; links to them, each repeated as often as needed, are the archive. Without --students, three students with
random weights: resnet10t at 96 pixels, one each for I-frames, motion and residuals, which are those of the preset ucf101-6-distill.
Everything computes with one thread in each process. `videokd predict ARCHIVE --save labels.jsonl --jobs N` is timed from its start to its
end, with what Python, PyTorch and the students take to load; ways take turns, and the median counts. Separately: reading every clip in one
process that is warm, and the students on what was read, one clip at a time. The first run, of one clip, is not counted: it compiles what is
compiled. Run it on a quiet machine. Writes results/bench_predict_archive-DATE.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import RESULTS, provenance, write
from videokd.archives.labels_table import read_labels
from videokd.jobs.video_files import videos_in
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, build_students
from videokd.models.students_file import save_students
from videokd.prediction.loading import load_predictor
from videokd.prediction.reading import read_streams

BACKBONE, SIDE = "resnet10t", 96
#: (what, bar)
BARS = (("two_against_one", 1.8), ("one_against_parts", 0.9))
_READ_AHEAD = 16


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--students", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def make_archive(folder: Path, clips: int, into: Path) -> int:
    """Links to clips, repeated as often as needed; how many different ones there are."""
    found = videos_in(folder)[:clips]
    into.mkdir()
    for number in range(clips):
        clip = found[number % len(found)]
        (into / f"{number:05d}{clip.suffix}").symlink_to(clip.absolute())
    return len(found)


def make_students(folder: Path) -> Path:
    """Three students with random weights, of clips in UCF101's form."""
    specs = {stream: NetworkSpec((stream,), BACKBONE, 6, SIDE) for stream in ("iframe", "motion", "residual")}
    students = build_students(specs, PredictionSpec(tuple("abcdef"), 3), seed=0)
    form = {"codec": "mpeg4", "gop": 12, "short_side": 240}
    students.encoding = {"encoding": form, "frame_rates": [25.0, 29.97]}
    return save_students(students, folder)


def predict_seconds(archive: Path, students: Path, out: Path, jobs: int) -> float:
    """From the start of the command to its end."""
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "videokd", "predict", str(archive), "--students", str(students), "--device", "cpu"]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--save", str(out), "--jobs", str(jobs)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - started


def parts_seconds(archive: Path, students: Path) -> dict[str, float]:
    """Reading every clip, and the students on what was read, both warm and in this process."""
    predictor = load_predictor(students, device="cpu", threads=1)
    clips = sorted(archive.iterdir())
    warm, _, _ = read_streams(clips[0], predictor.wanted)
    predictor(warm, names=["warm"])
    seconds = {"decoding": 0.0, "network": 0.0}
    for start in range(0, len(clips), _READ_AHEAD):
        began = time.perf_counter()
        read = [read_streams(clip, predictor.wanted)[0] for clip in clips[start : start + _READ_AHEAD]]
        between = time.perf_counter()
        for streams in read:
            predictor(streams, names=["clip"])
        seconds["decoding"] += between - began
        seconds["network"] += time.perf_counter() - between
    return seconds


def measured(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything, in a temporary folder."""
    archive, one_clip, out = folder / "archive", folder / "one", folder / "labels.jsonl"
    different = make_archive(given.folder, given.clips, archive)
    make_archive(given.folder, 1, one_clip)
    students = given.students or make_students(folder / "students")
    predict_seconds(one_clip, students, out, 1)
    taken: dict[str, list[float]] = {"start": [], "one": [], "two": []}
    parts: list[dict[str, float]] = []
    for _ in range(given.repeats):
        taken["start"].append(predict_seconds(one_clip, students, out, 1))
        taken["one"].append(predict_seconds(archive, students, out, 1))
        taken["two"].append(predict_seconds(archive, students, out, 2))
        parts.append(parts_seconds(archive, students))
    rows = list(read_labels(out))
    steps = {
        step: statistics.fmean(row.prediction.seconds[step] for row in rows) for step in rows[0].prediction.seconds
    }
    median = {name: statistics.median(values) for name, values in taken.items()}
    median |= {name: statistics.median(part[name] for part in parts) for name in parts[0]}
    apart = median["decoding"] + median["network"]
    ratios = {"two_against_one": median["one"] / median["two"], "one_against_parts": apart / median["one"]}
    named = (
        given.students.name
        if given.students
        else f"iframe, motion, residual: {BACKBONE}, {SIDE} pixels, random weights"
    )
    settings = {"clips": len(rows), "different": different, "students": named, "repeats": given.repeats}
    return {"settings": settings, "seconds": median, "all_seconds": taken, "ratios": ratios, "steps": steps}


def main() -> None:
    """The program."""
    given = arguments()
    os.environ["OMP_NUM_THREADS"] = "1"
    origin = provenance(("torch", "timm", "av", "numba"), threads=1)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(given, Path(folder))
    for name, bar in BARS:
        print(f"{name}: {found['ratios'][name]:.2f} (bar: {bar})")
    print(write("bench_predict_archive", origin | found, folder=given.out))


if __name__ == "__main__":
    main()
