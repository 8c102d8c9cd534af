"""`videokd demo`: the whole way on generated clips, as anybody could type it."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.datasets.synthetic import generate
from videokd.evaluation.results import read_results
from videokd.recipes import distill, evaluate, export, fuse, prepare, report, show, teach
from videokd.recipes.command_line import parse, say

STREAMS = ("iframe", "motion", "residual")
STUDENTS = {"students-hard": "demo-hard", "students-distilled": "demo-distill"}

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
    """Generates clips, prepares them, trains three teachers and two students, evaluates all, and writes a report.

    Args:
        out: the folder to write; the same command with the same folder goes on, or says that it is done.
        groups: scenes to generate, 4 to 99; fewer are quicker and teach less.
        epochs: of every training; by default what the presets say.
        workers: processes that load clips.
    """

    out: str = "runs/demo"
    groups: int = 10
    epochs: int | None = None
    workers: int = 2


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Demo, arguments, verb="demo", positional=("out",))
    started = time.perf_counter()
    page = demo(settings)
    say(*_figures(Path(settings.out)).splitlines())
    say("", f"{time.perf_counter() - started:.0f} s. The report: {page.resolve()}")


def demo(settings: Demo) -> Path:
    """Goes the whole way, leaving out what an earlier run has done; returns the report's path."""
    out = Path(settings.out)
    clips, prepared = out / "clips", out / "prepared"
    page = out / "report.html"
    commands = _commands(settings, out, clips, prepared, page)
    say(f"[1/{len(commands) + 1}] generating clips: 3 appearances × 3 motions, in {settings.groups} scenes")
    generate(clips, groups=settings.groups)
    for number, (command, result) in enumerate(commands, start=2):
        shown = f"[{number}/{len(commands) + 1}] videokd {shlex.join(command)}"
        # what comes after a result that had to be made again is made again too
        if result is not None and _is_newer(result, _inputs(command)):
            say(shown, "    done already")
            continue
        say(shown)
        _VERBS[command[0]](command[1:])
    return page


def _commands(
    settings: Demo, out: Path, clips: Path, prepared: Path, page: Path
) -> list[tuple[list[str], Path | None]]:
    """(command, the file that it makes last), in order; None where the command itself knows what is done."""
    training = [f"--manifest={prepared}", f"--data.workers={settings.workers}"]
    training += [f"--optim.epochs={settings.epochs}"] if settings.epochs else []
    testing = ["--views=quick", f"--workers={settings.workers}"]
    commands: list[tuple[list[str], Path | None]] = [
        (["prepare", "folder", str(clips), f"--out={prepared}", "--short-side=112"], None),
        (["show", str(_example(prepared)), f"--save={out / 'streams.png'}"], out / "streams.png"),
    ]
    for stream in STREAMS:
        run = out / f"teacher-{stream}"
        commands.append((["teach", "--config=demo-teacher", f"--stream={stream}", f"--out={run}", *training], None))
        commands.append((["evaluate", str(run), *testing, "--pictures=0"], run / "results.json"))
    fused = out / "teachers-fused"
    scores = [f"--scores.{stream}={out / f'teacher-{stream}' / f'scores-{stream}.npz'}" for stream in STREAMS]
    commands.append((["fuse", *scores, f"--out={fused}"], fused / "results.json"))
    teachers = [f"--teachers.{stream}={out / f'teacher-{stream}'}" for stream in STREAMS]
    for name, preset in STUDENTS.items():
        run = out / name
        taught = teachers if name == "students-distilled" else []
        commands.append((["distill", f"--config={preset}", f"--out={run}", *training, *taught], None))
        commands.append((["evaluate", str(run), *testing], run / "results.json"))
    runs = [*(f"teacher-{stream}" for stream in STREAMS), "teachers-fused", *STUDENTS]
    exported = out / "students"
    commands.append((["export", str(out / "students-distilled"), f"--out={exported}"], exported / "students.json"))
    title = "--title=videokd demo: three teachers, two students"
    commands.append((["report", *(str(out / run) for run in runs), f"--save={page}", title], page))
    return commands


def _example(prepared: Path) -> Path:
    return prepared / "videos" / "dots_slide" / "dots_slide_g01_c01.mp4"


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


def _figures(out: Path) -> str:
    """The demo's outcome in a few lines."""
    lines = [f"\n{'':<34}{'top-1 %':>9}{'parameters':>13}"]
    for run in [*(f"teacher-{stream}" for stream in STREAMS), "teachers-fused", *STUDENTS]:
        for name, entry in read_results(out / run)["entries"].items():
            shown = f"{run}/{name}" if run in STUDENTS else run
            top1 = 100 * entry["metrics"]["top1"]["value"]
            lines.append(f"{shown:<34}{top1:>9.1f}{entry['parameters']:>13,}")
    classes = len(json.loads((out / "students" / "students.json").read_text(encoding="utf-8"))["class_names"])
    lines.append(f"{classes} classes, test scenes that no training clip shows; chance is {100 / classes:.1f} %")
    return "\n".join(lines)
