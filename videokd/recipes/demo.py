"""`videokd demo`: end to end on generated clips, by commands that anybody could type."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.datasets.manifest import Manifest
from videokd.evaluation.metrics import differences
from videokd.evaluation.results import read_results
from videokd.evaluation.scores import Scores
from videokd.messages import say
from videokd.preparation.synthetic import Scenes, generate_actions
from videokd.recipes import distill, evaluate, export, fuse, prepare, report, show, teach
from videokd.recipes.command_line import parse

STREAMS = ("iframe", "motion", "residual")
RUNS = (*(f"teacher-{stream}" for stream in STREAMS), "teachers-fused", "student-hard", "student-distilled")

_VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    "prepare": prepare.main,
    "teach": teach.main,
    "distill": distill.main,
    "evaluate": evaluate.main,
    "fuse": fuse.main,
    "show": show.main,
    "export": export.main,
    "report": report.main,
}


@dataclass(frozen=True)
class Demo:
    """Few labels, many clips: three teachers learn from the labelled clips, one small student from them on all clips; with a report.

    The clips are generated: six actions, each with its motion and its object. The student sees only I-frames. It is trained twice,
    with the labels and with the teachers, and tested in scenes that no training clip shows.

    Args:
        out: the folder to write; the same command with the same folder resumes, or reports that it is done.
        scenes: without labels, 1 to 99; with fewer it is quicker, and the student learns less.
        epochs: of every training; by default those of the presets.
        seed: of the clips; the presets' settings were chosen with 101.
        workers: processes that load clips for the tests; -1: as many as there are cores.
    """

    out: str = "runs/demo"
    scenes: int = 30
    epochs: int | None = None
    seed: int = 0
    workers: int = -1


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Demo, arguments, verb="demo", positional=("out",))
    started = time.perf_counter()
    page = demo(settings)
    for line in _outcome(Path(settings.out)):
        say(line)
    say(f"{time.perf_counter() - started:.0f} s. The report: {page.resolve()}")


def demo(settings: Demo) -> Path:
    """Runs all steps, omitting what an earlier run has done; returns the report's path."""
    out = Path(settings.out)
    commands = _commands(settings, out)
    clips = "36 with labels, "  # see generate_actions
    say(
        f"[1/{len(commands) + 1}] generating clips of six actions: {clips}{6 * settings.scenes} without, 162 to test on"
    )
    generate_actions(out / "clips", seed=settings.seed, scenes=Scenes(unlabelled=settings.scenes))
    for number, (command, result) in enumerate(commands, start=2):
        shown = f"[{number}/{len(commands) + 1}] videokd {shlex.join(command)}"
        # a result that was made again is newer than those that depend on it, so they are made again too
        if result is not None and _is_newer(result, _inputs(command)):
            say(shown)
            say("    already done")
            continue
        say(shown)
        _VERBS[command[0]](command[1:])
    return out / "report.html"


def _commands(settings: Demo, out: Path) -> list[tuple[list[str], Path | None]]:
    """(command, the file that it makes last), in order; None where the command itself knows what is done."""
    clips, labelled, unlabelled = out / "clips", out / "labelled", out / "unlabelled"
    preparing = ["--short-side=112", "--resample=25"]
    training = [f"--manifest={labelled}", f"--data.cache={out / 'cache'}"]
    training += [f"--optim.epochs={settings.epochs}"] if settings.epochs else []
    testing = ["--views=quick", "--num-segments=3", f"--workers={settings.workers}"]
    grouped = r"--group-pattern=_(g\d+)_"
    commands: list[tuple[list[str], Path | None]] = [
        (["prepare", "folder", str(clips / "labelled"), grouped, f"--out={labelled}", *preparing], None),
        (["prepare", "folder", str(clips / "unlabelled"), "--unlabelled", f"--out={unlabelled}", *preparing], None),
        (["show", str(_example(labelled)), f"--save={out / 'streams.png'}"], out / "streams.png"),
    ]
    for stream in STREAMS:
        run = out / f"teacher-{stream}"
        commands.append((["teach", "--config=demo-teacher", f"--stream={stream}", f"--out={run}", *training], None))
        commands.append((["evaluate", str(run), *testing, "--pictures=0"], run / "results.json"))
    fused = out / "teachers-fused"
    scores = [f"--scores.{stream}={out / f'teacher-{stream}' / f'scores-{stream}.npz'}" for stream in STREAMS]
    # as in the preset demo-distill
    weights = [f"--weights.{stream}={weight}" for stream, weight in zip(STREAMS, (1, 8, 1), strict=True)]
    commands.append((["fuse", *scores, *weights, f"--out={fused}"], fused / "results.json"))
    teachers = [f"--teachers.{stream}={out / f'teacher-{stream}'}" for stream in STREAMS]
    more = {"demo-hard": [], "demo-distill": [*teachers, f"--unlabelled={unlabelled}"]}
    for name, preset in (("student-hard", "demo-hard"), ("student-distilled", "demo-distill")):
        run = out / name
        commands.append((["distill", f"--config={preset}", f"--out={run}", *training, *more[preset]], None))
        commands.append((["evaluate", str(run), *testing], run / "results.json"))
    exported, page = out / "student", out / "report.html"
    commands.append((["export", str(out / "student-distilled"), f"--out={exported}"], exported / "students.json"))
    title = "--title=videokd demo: few labels, many clips"
    commands.append((["report", *(str(out / run) for run in RUNS), f"--save={page}", title], page))
    return commands


def _example(prepared: Path) -> Path:
    return prepared / "videos" / "train" / "slide" / "slide_g01_c01.mp4"


def _inputs(command: Sequence[str]) -> list[Path]:
    """The files that a command reads, as far as they tell whether its result is still good."""
    words = [word.partition("=")[2] if word.startswith("--") else word for word in command[1:]]
    files = [Path(word) for word in words]
    return [*files, *(path / name for path in files for name in ("best.pt", "results.json"))]


def _is_newer(result: Path, inputs: Sequence[Path]) -> bool:
    if not result.is_file():
        return False
    others = [path for path in inputs if path.is_file() and path != result]
    return all(path.stat().st_mtime <= result.stat().st_mtime for path in others)


def _outcome(out: Path) -> list[str]:
    """Accuracies on the tested scenes, and what distilling adds, with intervals."""
    lines = ["", f"{'':<22}{'top-1 % (95 % interval)':>26}{'parameters':>13}"]
    for run in RUNS:
        (entry,) = read_results(out / run).entries.values()
        top1 = entry.metrics.top1
        shown = f"{100 * top1.value:.1f} ({100 * top1.low:.1f} to {100 * top1.high:.1f})"
        lines.append(f"{run:<22}{shown:>26}{entry.parameters:>13,}")
    students = {run: Scores.load(out / run / "scores-iframe.npz") for run in RUNS[-2:]}
    clips = Manifest.read(out / "labelled").clips
    (gain,) = differences(students, reference="student-hard", groups={clip.video_id: clip.group for clip in clips})
    points = gain.top1_difference
    interval = f"{100 * points.low:+.1f} to {100 * points.high:+.1f}"
    lines.append(
        f"distilled minus hard labels: {100 * points.value:+.1f} points ({interval}), on the same "
        "clips, whole scenes drawn."
    )
    classes = len(json.loads((out / "student" / "students.json").read_text(encoding="utf-8"))["class_names"])
    lines.append(f"{classes} actions, chance {100 / classes:.1f} %; no training clip shows a tested scene.")
    return [*lines, ""]
