"""Accuracy and time of `predict` on test clips in eleven forms, compared with the prepared clips, and with another checkout.

    git worktree add /tmp/before COMMIT
    .venv/bin/python measurements/predict_forms.py CLIPS PREPARED STUDENTS … [--before /tmp/before] [--limit N] [--forms 0 1 …]

CLIPS is the dataset that was prepared, PREPARED its training form, STUDENTS folders of `videokd export`, all of the same kind, such as one
for each seed. The test clips of split 1, or N of them, are read as they are shipped, and in ten forms that the ffmpeg program writes:
with `--transcode auto`, with `--transcode always`, and with auto by the other checkout. Each checkout runs in a process of its own; both
are bound to one core, and take turns. Writes results/KIND-DATE.json, predict_forms by default, with the rows

    {"form", "clips", "routes": {route of auto: clips}, "top1": {network: {"auto", "always"}}, "difference": {network: {"value", "low",
     "high"}}, "ms": {"auto", "always", "before"}, "times_as_fast"}

where `top1` is the mean over STUDENTS, `difference` is from predicting the prepared clips with auto, with a 95 % bootstrap interval over
groups, and `ms` is the processor's time before the network, the median over clips, and `times_as_fast` the median of before / auto. The
exit status is 1 if a form is more than 3 points below.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bench_versions import Version
from record import RESULTS, ROOT, provenance, write
from videokd.datasets.manifest import Clip, Manifest
from videokd.distill.fusion import fuse
from videokd.evaluation.metrics import paired_difference
from videokd.evaluation.results import as_plain
from videokd.evaluation.scores import Scores
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
    "four fifths of the size": ((*X264, "-vf", "scale=4*iw/5:-2"), ".mp4"),
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
    parser.add_argument("students", type=Path, nargs="+")
    parser.add_argument("--before", type=Path, help="another checkout, to compare times with")
    parser.add_argument("--limit", type=int)
    parser.add_argument(
        "--forms", type=int, nargs="*", default=range(len(FORMS)), help="numbers of the forms to write, from 0"
    )
    parser.add_argument("--kind", default="predict_forms", help="what the result file's name starts with")
    parser.add_argument("--title", default="`predict` on clips in other forms")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/forms")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def serve() -> None:
    """Answers requests on standard input, a line of JSON each: runs in one checkout's process."""
    torch.set_num_threads(1)
    loaded: dict[str, Any] = {}
    read = reading_of_this_checkout()
    for line in sys.stdin:
        asked = json.loads(line)
        for folder in asked["students"]:
            loaded.setdefault(folder, None)
            loaded[folder] = loaded[folder] or load_students(folder).eval()
        students = [loaded[folder] for folder in asked["students"]]
        started = time.process_time()
        streams, seconds, *route = read(asked["file"], students[0], asked["mode"])
        used = time.process_time() - started
        known = route[0] if route else "transcoded" if seconds["transcode"] else "as it is"
        found = []
        with torch.no_grad():
            for each in students:
                logits = {name: values.float() for name, values in each.logits(streams).items()}
                fused = fuse(logits, each.weights, space=each.space)
                found.append({name: values[0].tolist() for name, values in {**logits, "fused": fused}.items()})
        print(json.dumps({"ms": 1000 * used, "route": known, "logits": found}), flush=True)


def reading_of_this_checkout() -> Callable[[str, Students, str], tuple[Any, ...]]:
    """Reads a file as students see it, also in a checkout from before predictions had a folder of their own."""
    if find_spec("videokd.prediction") is None:
        before = import_module("videokd.evaluation.prediction").read_streams
        return lambda file, students, mode: before(file, students, transcode=mode)
    now = import_module("videokd.prediction.reading").read_streams
    wrapped = import_module("videokd.prediction.torch_predictor").TorchPredictor

    def read(file: str, students: Students, mode: str) -> tuple[Any, ...]:
        streams, *rest = now(file, wrapped(students).wanted, transcode=mode)
        return {name: torch.from_numpy(values) for name, values in streams.items()}, *rest

    return read


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


Answers = dict[str, list[dict[str, Any]]]
"""{mode: the answer for each clip}."""


def ask_all(
    versions: dict[str, Version], modes: Sequence[str], files: Sequence[Path], students: Sequence[Path]
) -> Answers:
    """Reads all clips in all modes, clip by clip; before, the first clip, which compiles the kernels."""
    answers: Answers = {mode: [] for mode in modes}
    folders = [str(folder.absolute()) for folder in students]
    for turn, file in enumerate([files[0], *files]):
        asked = {"file": str(file), "mode": "auto", "students": folders}
        found = {
            mode: versions[mode].ask(**asked) for mode in ("auto", "before")[:: 1 if turn % 2 else -1] if mode in modes
        }
        if "always" in modes:
            transcoded = found["auto"]["route"] == "transcoded"
            found["always"] = found["auto"] if transcoded else versions["always"].ask(**asked | {"mode": "always"})
        for mode in modes:
            answers[mode] += [found[mode]] if turn else []
    return answers


def scores_of(answers: Sequence[dict[str, Any]], clips: Sequence[Clip], network: str) -> tuple[Scores, list[str]]:
    """One network's scores by all students' folders, the videos named by folder; and the group of each."""
    found = [
        (clip, n, logits[network])
        for clip, a in zip(clips, answers, strict=True)
        for n, logits in enumerate(a["logits"])
    ]
    scores = Scores(
        np.array([logits for *_, logits in found], np.float32),
        np.array([clip.label for clip, *_ in found]),
        tuple(f"{clip.video_id}#{number}" for clip, number, _ in found),
    )
    return scores, [clip.group for clip, *_ in found]


def row_of(form: str, answers: Answers, clips: Sequence[Clip], reference: Answers) -> dict[str, Any]:
    """One row of the table."""
    top1: dict[str, dict[str, float]] = {}
    difference: dict[str, Any] = {}
    for network in answers["auto"][0]["logits"][0]:
        top1[network] = {}
        for mode in [mode for mode in answers if mode != "before"]:
            scores, groups = scores_of(answers[mode], clips, network)
            top1[network][mode] = round(100 * float((scores.logits.argmax(1) == scores.labels).mean()), 1)
        now, before = (scores_of(each["auto"], clips, network)[0] for each in (answers, reference))
        difference[network] = {
            k: round(100 * v, 1) for k, v in as_plain(paired_difference(now, before, groups)).items()
        }
    row: dict[str, Any] = {
        "form": form,
        "clips": len(clips),
        "routes": dict(Counter(answer["route"] for answer in answers["auto"])),
        "top1": top1,
        "difference": difference,
        "ms": {mode: round(statistics.median(a["ms"] for a in each), 1) for mode, each in answers.items()},
    }
    if "before" in answers:
        pairs = zip(answers["before"], answers["auto"], strict=True)
        row["times_as_fast"] = round(statistics.median(before["ms"] / now["ms"] for before, now in pairs), 2)
    return row


def rows_of(given: argparse.Namespace, versions: dict[str, Version]) -> list[dict[str, Any]]:
    """The rows of the table: the clips as prepared, as shipped, then all forms."""
    manifest = Manifest.read(given.prepared)
    tested = [clip for clip in manifest.clips if clip.split1 == "test"]
    wanted = min(given.limit or len(tested), len(tested))
    clips = [tested[number * len(tested) // wanted] for number in range(wanted)]
    modes = ("auto", "always", "before") if "before" in versions else ("auto", "always")
    reference = ask_all(versions, ("auto", *modes[2:]), [manifest.file(clip) for clip in clips], given.students)
    rows = [row_of("as prepared", reference, clips, reference)]
    sources = [given.clips.absolute() / clip.source_path for clip in clips]
    rows.append(row_of("as shipped", ask_all(versions, modes, sources, given.students), clips, reference))
    given.work.mkdir(parents=True, exist_ok=True)
    for number, (form, (options, suffix)) in enumerate(tqdm(FORMS.items(), unit="form", disable=None)):
        if number not in given.forms:
            continue
        files = [given.work.absolute() / f"{number}-{place}{suffix}" for place in range(len(clips))]
        for source, file in zip(sources, files, strict=True):
            write_form(source, file, options)
        rows.append(row_of(form, ask_all(versions, modes, files, given.students), clips, reference))
        sys.stderr.write(f"{json.dumps(rows[-1])}\n")
        for file in files:
            file.unlink()
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows, as text."""
    lines = [f"{'form':<28}{'top-1':>7}{'difference':>12}{'always':>8}{'ms':>8}{'faster':>8}  route"]
    for row in rows:
        fused, of = row["top1"]["fused"], row["difference"]["fused"]["value"]
        times = f"{fused.get('always', ''):>8}{row['ms']['auto']:>8}{row.get('times_as_fast', ''):>8}"
        lines.append(f"{row['form']:<28}{fused['auto']:>7}{of:>+12}{times}  {', '.join(row['routes'])}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """The program."""
    given = arguments()
    core = min(os.sched_getaffinity(0))
    now = Version(ROOT, core, program=Path(__file__))
    versions = {"auto": now, "always": now}
    if given.before is not None:
        versions["before"] = Version(given.before.absolute(), core, program=Path(__file__))
    rows = rows_of(given, versions)
    for version in set(versions.values()):
        version.end()
    revision = None
    if given.before is not None:
        asked = ["git", "-C", str(given.before), "rev-parse", "HEAD"]
        revision = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    report = provenance(("av", "torch"), threads=1) | {
        "title": given.title,
        "note": f"{given.clips.name}: {rows[0]['clips']} test clips, {len(given.students)} times trained students "
        f"({', '.join(name for name in rows[0]['top1'] if name != 'fused')}). Made by `measurements/predict_forms.py`.",
        "settings": {"before": revision, "forms": {n: " ".join(f[0]) for n, f in FORMS.items()}},
        "rows": rows,
    }
    path = write(given.kind, report, folder=given.results)
    print(f"{report['note']}\n\n{table(rows)}\n{path}")
    return int(min(row["difference"]["fused"]["value"] for row in rows) < -ALLOWED)


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        sys.exit(main())
