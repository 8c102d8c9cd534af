"""Accuracy of `predict` on test clips in nine forms, compared with `evaluate` on the prepared clips.

    .venv/bin/python measurements/predict_forms.py CLIPS PREPARED STUDENTS [--evaluated RUN] [--limit N] [--work DIR] [--results DIR]

CLIPS is the dataset that was prepared, PREPARED its training form, STUDENTS a folder of `videokd export`, and RUN the run that they come
from, with the results of `videokd evaluate`. The table in docs/measured.md was made with the nine classes of
`videokd.preparation.synthetic.generate` and a student of all streams, whose settings are those of the preset small-teacher but for 90
epochs of 27 clips, evaluated with `--views quick --num-segments 8`. Every test clip of split 1 is written in nine forms by the ffmpeg
program and read with `--transcode auto`. Writes results/predict_forms-DATE.json, with the rows

    {"form", "correct", "clips", "top1", "difference", "transcoded", "ms"}

where `top1` and `difference` (from `evaluate`; from `predict` on the prepared clips without RUN) are in per cent, `transcoded` counts
clips, and `ms` is the median time of `predict`. The exit status is 1 if a form is more than 3 points below.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from record import RESULTS, ROOT, provenance, write
from videokd.datasets.manifest import Clip, Manifest
from videokd.evaluation.prediction import predict
from videokd.evaluation.results import read_results
from videokd.models.students import Students
from videokd.models.students_file import load_students

ALLOWED = 3.0
X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
UPRIGHT, TURNED_LEFT = (1, 0, 0, 1), (0, -1, 1, 0)
#: {form: (options of ffmpeg, suffix of the file)}
FORMS: dict[str, tuple[tuple[str, ...], str]] = {
    "x264, GOP 12, no B-frames": ((*X264, "-g", "12", "-bf", "0"), ".mp4"),
    "x264, GOP 30, 3 B-frames": ((*X264, "-g", "30", "-bf", "3", "-b_strategy", "0", "-sc_threshold", "0"), ".mp4"),
    "x264, its defaults": (X264, ".mp4"),
    "ffmpeg's MPEG-4": (("-c:v", "mpeg4"), ".avi"),
    "HEVC": (("-c:v", "libx265", "-pix_fmt", "yuv420p", "-x265-params", "log-level=none"), ".mkv"),
    "enlarged ×4": ((*X264, "-g", "12", "-bf", "0", "-vf", "scale=4*iw:-2"), ".mp4"),
    "turned 90° in the header": ((*X264, "-g", "12", "-bf", "0", "-vf", "transpose=clock"), ".mp4"),
    "12.5 frames a second": ((*X264, "-g", "12", "-bf", "0", "-vf", "fps=12.5"), ".mp4"),
    "50 frames a second": ((*X264, "-g", "12", "-bf", "0", "-vf", "fps=50"), ".mp4"),
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("students", type=Path)
    parser.add_argument("--evaluated", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/forms")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def matrix(a: int, b: int, c: int, d: int) -> bytes:
    """A display matrix as a track header holds it (ISO/IEC 14496-12, 8.3.2)."""
    values = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    return b"".join(value.to_bytes(4, "big", signed=True) for value in values)


def write_form(source: Path, target: Path, options: tuple[str, ...]) -> None:
    """Writes one form of a clip."""
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(source), "-an", *options, str(target)]
    subprocess.run(command, check=True, timeout=120)
    if "transpose=clock" in options:  # stored turned to the right; the header turns it back
        data = target.read_bytes()
        at = data.index(matrix(*UPRIGHT), data.index(b"tkhd"))
        target.write_bytes(data[:at] + matrix(*TURNED_LEFT) + data[at + 36 :])


def row_of(form: str, clips: list[Clip], files: list[Path], students: Students) -> dict[str, Any]:
    """Accuracy and time of `predict` on one form."""
    predictions = [predict(file, students) for file in files]
    correct = [p.labels[0].name == clip.class_name for p, clip in zip(predictions, clips, strict=True)]
    return {
        "form": form,
        "correct": sum(correct),
        "clips": len(clips),
        "top1": round(100 * sum(correct) / len(correct), 1),
        "transcoded": sum(p.seconds["transcode"] > 0 for p in predictions),
        "ms": round(1000 * statistics.median(sum(p.seconds.values()) for p in predictions), 1),
    }


def rows_of(given: argparse.Namespace, students: Students) -> list[dict[str, Any]]:
    """The rows of the table: the clips as prepared, then all forms."""
    manifest = Manifest.read(given.prepared)
    clips = [clip for clip in manifest.clips if clip.split1 == "test"][: given.limit]
    rows = [row_of("as prepared", clips, [manifest.file(clip) for clip in clips], students)]
    given.work.mkdir(parents=True, exist_ok=True)
    for number, (form, (options, suffix)) in enumerate(tqdm(FORMS.items(), unit="form", disable=None)):
        files = [given.work / f"{number}-{place}{suffix}" for place in range(len(clips))]
        for clip, file in zip(clips, files, strict=True):
            write_form(given.clips / clip.source_path, file, options)
        rows.append(row_of(form, clips, files, students))
        for file in files:
            file.unlink()
    return rows


def evaluated(run: Path) -> float:
    """Top-1 of a run's students, fused where there are several, in per cent."""
    entries = read_results(run).entries
    name = "fused" if "fused" in entries else next(iter(entries))
    return 100 * entries[name].metrics.top1.value


def table(rows: list[dict[str, Any]]) -> str:
    """The rows, as text."""
    lines = [f"{'form':<28}{'top-1':>7}{'difference':>12}{'transcoded':>12}{'ms':>8}"]
    for row in rows:
        share = f"{row['transcoded']}/{row['clips']}"
        lines.append(f"{row['form']:<28}{row['top1']:>7}{row['difference']:>+12}{share:>12}{row['ms']:>8}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """The program."""
    given = arguments()
    torch.set_num_threads(1)
    rows = rows_of(given, load_students(given.students))
    reference = rows[0]["top1"] if given.evaluated is None else evaluated(given.evaluated)
    for row in rows:
        row["difference"] = round(row["top1"] - reference, 1)
    against = "predict on the prepared clips" if given.evaluated is None else f"evaluate of {given.evaluated.name}"
    report = provenance(("av", "torch"), threads=1) | {
        "title": "`predict` on clips in other forms than that of training",
        "note": f"{rows[0]['clips']} test clips; {against}: {reference:.1f} %. Made by `measurements/predict_forms.py`.",
        "settings": {
            "reference": against,
            "top1": round(reference, 1),
            "forms": {n: " ".join(f[0]) for n, f in FORMS.items()},
        },
        "rows": rows,
    }
    path = write("predict_forms", report, folder=given.results)
    print(f"{report['note']}\n\n{table(rows)}\n{path}")
    return int(min(row["difference"] for row in rows) < -ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
