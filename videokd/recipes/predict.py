"""`videokd predict`: names the action in videos, also in all of an archive; `videokd.predict` in Python."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from videokd.archives.archive import label_files, label_into_table
from videokd.archives.labelling import Labelling
from videokd.archives.labels_table import check_labels_name
from videokd.errors import ConfigError, DataError, DecodeError, VideoKDError
from videokd.jobs.archive_files import (
    ArchiveFile,
    failures_of,
    failures_of_folders,
    files_named,
    listed_paths,
    reason_with_name,
)
from videokd.jobs.workers import Engine, Workers
from videokd.messages import give, say
from videokd.prediction.prediction import PredictionPrinter
from videokd.prediction.reading import Transcode
from videokd.recipes.command_line import parse
from videokd.runs.settings import Device, PrecisionName


@dataclass(frozen=True)
class Predict:
    """Names the action in videos: in one, or in all of an archive. With --save, run again, it labels what is missing.

    Args:
        students: folder of `videokd export`; or its students.onnx, which ONNX Runtime computes without PyTorch; or hf://owner/name of the
            Hugging Face Hub (needs the extra videokd[hub]).
        files: videos, folders with videos at any depth, and patterns in quotes such as 'in/**/*.mp4'.
        list: file of further paths, one a line, or each ended by a zero byte (`find … -print0`); - for standard input.
        save: table to write instead of printing: .parquet, .csv, .jsonl or .json; the name of each says its format. Files that cannot be
            labelled are listed beside it, in NAME.failures.csv.
        top: how many labels of each video.
        num_segments: places looked at in each video; by default 8, or as many as in training where students see their order.
        transcode: bring a video into the form that the students learned from: never, always, or (auto) where its form is another:
            codec, GOPs, B-frames, size, pixel format and aspect, orientation, or frame rate. If some student sees pictures (iframe,
            rgb), auto reads a similar file faster, as it is: with motion vectors, upright, at most a quarter larger or smaller. Long
            GOPs of a file that is not transcoded are cut to the length of training.
        exit_threshold: each student stops computing at its first exit whose probability is above this, 0 to 1; for students that
            were exported with `--exits`. By default every student computes its whole network.
        format: of what is printed; by default table. json is one list, jsonl one line a video. parquet needs --save.
        device: auto takes CUDA where there is one.
        precision: auto, fp32, tf32 (CUDA only), bf16 or fp16 (CUDA only); auto is tf32 on a GPU that has it, fp32 elsewhere.
        jobs: videos labelled at the same time, each in a process with one thread; by default one per CPU, and for less than 16 videos
            one after the other in this process.
        batch_size: videos whose networks compute together in this process, while other processes read; by default 16 on CUDA, and on
            CPUs each process computes by itself, one video after the other.
        engine: local (processes) or ray (an existing Ray cluster, whose machines see the same paths).
        address: address of the Ray cluster; by default the one that this machine belongs to.
        most_seconds: a video that takes longer is given up, as one that crashes FFmpeg is; where processes work.
    """

    students: str
    files: tuple[str, ...] = ()
    list: str | None = None
    save: str | None = None
    top: int = 5
    num_segments: int | None = None
    transcode: Transcode = "auto"
    exit_threshold: float | None = None
    format: Literal["table", "jsonl", "json", "csv", "parquet"] | None = None
    device: Device = "auto"
    precision: PrecisionName = "auto"
    jobs: int | None = None
    batch_size: int | None = None
    engine: Engine = "local"
    address: str | None = None
    most_seconds: float = 3600.0


def main(arguments: Sequence[str]) -> None:
    """The verb: prints or saves the labels, then names the files that could not be read."""
    settings = parse(Predict, arguments, verb="predict", positional=("files",))
    _check_format(settings)
    labelling = Labelling(
        settings.students,
        top=settings.top,
        num_segments=settings.num_segments,
        transcode=settings.transcode,
        exit_threshold=settings.exit_threshold,
        device=settings.device,
        precision=settings.precision,
        batch_size=settings.batch_size,
    )
    workers = Workers(settings.engine, settings.jobs, settings.address, settings.most_seconds)
    listed = listed_paths(_content(settings.list)) if settings.list is not None else []
    files = files_named(settings.files, listed)
    if not files:
        given = f"{settings.list} lists nothing" if settings.list is not None else "required: FILES or --list"
        raise ConfigError(f"predict: {given} (accepted: videos, folders and patterns). See `videokd predict --help`.")
    for folder, reason in failures_of_folders([word for word in (*settings.files, *listed) if word]):
        say(f"warning: {folder}: its files cannot be listed ({reason}). Correct its permissions.")
    if settings.save is not None:
        _save(files, labelling, Path(settings.save), workers)
    else:
        _print(files, labelling, workers, settings)


def _check_format(settings: Predict) -> None:
    if settings.save is not None:
        check_labels_name(Path(settings.save))
        if settings.format is not None and settings.format != Path(settings.save).suffix.lower()[1:]:
            raise ConfigError(
                f"format {settings.format} and {settings.save} differ (accepted: the ending of the name alone). Omit --format."
            )
    elif settings.format == "parquet":
        raise ConfigError(
            "format parquet cannot be printed (accepted: table, jsonl, json, csv). Pass --save NAME.parquet."
        )


def _content(list_name: str) -> bytes:
    """What a list holds, or what comes from standard input."""
    try:
        return sys.stdin.buffer.read() if list_name == "-" else Path(list_name).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{list_name} cannot be read ({reason}; accepted: a file of paths, or -). Check --list."
        ) from error


def _save(files: Sequence[ArchiveFile], labelling: Labelling, out: Path, workers: Workers) -> None:
    done = label_into_table(files, labelling, out, workers=workers)
    labelled_before = f", {done.reused} labelled before" if done.reused else ""
    say(f"{out}: {done.rows} videos{labelled_before}.")
    if done.failed:
        raise DataError(f"{len(done.failed)} of {len(files)} files could not be labelled; {failures_of(out)} says why.")


def _print(files: Sequence[ArchiveFile], labelling: Labelling, workers: Workers, settings: Predict) -> None:
    printer = PredictionPrinter(settings.format or "table")  # type: ignore[arg-type]
    failures: list[str] = []
    with closing(label_files(files, labelling, workers=workers, made_with=labelling.made_with())) as outcomes:
        try:
            for file, outcome in outcomes:
                if isinstance(outcome, DecodeError):
                    failures.append(reason_with_name(file, outcome))
                    continue
                with tqdm.external_write_mode():  # a progress bar may be on the same terminal
                    give(printer.lines(outcome.prediction))
                    sys.stdout.flush()
        except (VideoKDError, KeyboardInterrupt):  # such as too little memory: what is predicted is not lost
            give(printer.end())
            raise
    give(printer.end())
    if len(files) == len(failures) == 1:
        raise DecodeError(failures[0])
    say(*(f"videokd: {failure}" for failure in failures))
    if failures:
        raise DataError(f"{len(failures)} of {len(files)} files could not be read; each is named above.")
