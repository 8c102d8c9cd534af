"""`videokd app`: a page in the browser that says what students see in a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.errors import ConfigError
from videokd.messages import say
from videokd.prediction.loading import load_predictor
from videokd.recipes.command_line import parse
from videokd.runs.settings import Device, PrecisionName
from videokd.webpage.answers import PageLimits
from videokd.webpage.serving import Address, serve_page


@dataclass(frozen=True)
class App:
    """Serves a page on which you drop a clip: its streams play side by side, with the students' answers over time.

    Needs the extra app: `pip install 'videokd[app]'`.

    Args:
        students: what `videokd export` wrote.
        against: a second set of students, to compare with the first; it may also follow the first without an option's name.
        folder: a folder whose videos can be chosen from a list; without it, clips are only dropped.
        window: length of a window, in seconds.
        stride: from the start of one window to that of the next, in seconds; longer in clips of more than 60 windows.
        most_megabytes: of a clip's file; larger ones are refused.
        most_seconds: of a clip; longer ones are refused.
        host: name or address of this machine on which the page is served; by default only this machine reaches it.
        port: of the page; 0: any free one.
        device: auto takes CUDA where there is one.
        precision: auto, fp32, tf32 (CUDA only), bf16 or fp16 (CUDA only); auto is tf32 on a GPU that has it, fp32 elsewhere.
    """

    students: str
    against: str | None = None
    folder: str | None = None
    window: float = 2.0
    stride: float = 0.5
    most_megabytes: float = 100.0
    most_seconds: float = 60.0
    host: str = "127.0.0.1"
    port: int = 7860
    device: Device = "auto"
    precision: PrecisionName = "auto"


def main(arguments: Sequence[str]) -> None:
    """The verb: serves the page until it is told to stop."""
    settings = parse(App, arguments, verb="app", positional=("against",))
    limits = PageLimits(settings.window, settings.stride, settings.most_megabytes, settings.most_seconds)
    address = Address(settings.host, settings.port)
    folders = [settings.students, *([] if settings.against is None else [settings.against])]
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"{settings.students} is given twice (accepted: two different sets). Omit one.")
    names = [Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = folders
    sets = {
        name: load_predictor(folder, device=settings.device, precision=settings.precision)
        for name, folder in zip(names, folders, strict=True)
    }
    if not address.is_loopback:
        say(
            f"videokd: with `--host {settings.host}`, anybody who reaches this machine can use the page: there is no password."
        )
    folder = None if settings.folder is None else Path(settings.folder)
    serve_page(sets, limits=limits, address=address, folder=folder, ready=_ready)


def _ready(url: str) -> None:
    say(f"videokd: open {url} in a browser; Ctrl-C stops.")
