"""`results.json`: what a run measured, written by `videokd evaluate` and `videokd fuse`, and read by the report.

    {"run": name, "verb": "evaluate", "command": "videokd …", "created": ISO 8601, "versions": {"videokd": …, …},
     "dataset": {"manifest": path, "split": 1, "part": "test", …}, "views": "full", "num_segments": 25,
     "entries": {name: {"role": "student", …, "metrics": {"top1": {"value": 0.9, "low": 0.8, "high": 0.95}, …}}}, …}

The dataclasses below are this file: a field whose default is None may be missing, and keys beyond the fields are ignored. A
student's exits are entries named `student:exit1` and so on; their parameters and MACs are those of the network up to the exit.
`student:ensemble` is the mean of the logits of all exits, the deepest among them. In `early_exit` a video leaves by the first
exit whose largest probability is above the threshold, and pays for the exits it passed too; under "fused" each student leaves by
itself, and the shares are means over the students that have exits. Scores of `student:exit1` are in `scores-student-exit1.npz`.
Results of the validation set are in `results-val.json` and `scores-val-student.npz`.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import videokd
from videokd.config import built, checked, known_part
from videokd.datasets.manifest import Manifest
from videokd.errors import ConfigError, DataError
from videokd.files import read_json, write_whole

#: Scores files are named after entries: `student`, or `student:exit1`.
_ENTRY_NAME = re.compile(r"\w[\w .+-]*(:\w+)?")
_LARGEST = 1e18
_LARGEST_COUNT = 10**12
_ROUNDING = 1e-6


def _require(sound: bool, found: str, accepted: str) -> None:
    if not sound:
        raise DataError(f"{found} (accepted: {accepted}). Evaluate the run again.")


def _require_amount(name: str, amount: float | None, *, least: float = 0) -> None:
    known = least if amount is None else amount
    _require(least <= known <= _LARGEST, f"{name} is {known:.6g}", f"{least:g} to {_LARGEST:g}")


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% interval, as fractions.

    Args:
        value: the figure, -1 to 1.
        low: lower end of the interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        self.check_from(-1, where="the interval")

    def check_from(self, least: float, *, where: str) -> None:
        """Refuses an interval that leaves [least, 1]; `where` names it."""
        for name, end in (("value", self.value), ("low", self.low), ("high", self.high)):
            sound = least - _ROUNDING <= end <= 1 + _ROUNDING
            _require(sound, f"{where}: {name} is {end:.6g}", f"a fraction, {least} to 1")


@dataclass(frozen=True)
class ClassAccuracy:
    """How well one class is recognised, and how many videos it has.

    The accuracy, 0 to 1, is None where the class has no video.
    """

    accuracy: float | None
    videos: int

    def __post_init__(self) -> None:
        _require(self.accuracy is None or 0 <= self.accuracy <= 1, f"accuracy is {self.accuracy}", "0 to 1")
        _require(0 <= self.videos <= _LARGEST_COUNT, f"videos is {self.videos:.6g}", f"0 to {_LARGEST_COUNT}")


@dataclass(frozen=True)
class Metrics:
    """What `videokd.evaluation.metrics.metrics` computes from one model's scores.

    Args:
        top1: share of the videos whose class is the most probable one.
        top5: share of those whose class is among the min(5, K) most probable ones.
        mean_class: mean of the classes' accuracies, over classes that have videos.
        calibration_error: expected calibration error.
        confusion: K rows (label) of K counts (prediction).
        per_class: {class: its accuracy}.
        num_videos: N.
        intervals_over: "groups" or "videos": what the bootstrap draws.
        interval_units: how many of them there are.
    """

    top1: Interval
    top5: Interval
    mean_class: Interval
    calibration_error: Interval | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None
    per_class: dict[str, ClassAccuracy] | None = None
    num_videos: int | None = None
    intervals_over: str | None = None
    interval_units: int | None = None

    def __post_init__(self) -> None:
        for name in ("top1", "top5", "mean_class", "calibration_error"):
            if (interval := getattr(self, name)) is not None:
                interval.check_from(0, where=name)
        size = len(self.confusion or ())
        sound = all(len(row) == size and 0 <= min(row) <= max(row) <= _LARGEST_COUNT for row in self.confusion or ())
        _require(sound, "confusion is not a square of counts", f"K lists of K counts, 0 to {_LARGEST_COUNT}")


@dataclass(frozen=True)
class Latency:
    """Milliseconds that a video takes from file to label: medians over the timed videos.

    Args:
        read: reading its streams; None where it is not known.
        network: copying its streams to the device, and computing its label there.
        total: both together; p95 is its 95th percentile.
    """

    read: float | None
    network: float | None
    total: float
    p95: float | None = None

    def __post_init__(self) -> None:
        for name in ("read", "network", "total", "p95"):
            _require_amount(name, getattr(self, name))


@dataclass(frozen=True)
class Entry:
    """One model of a run: what it is, what it costs and how accurate it is.

    Args:
        role: "teacher", "fused teachers", "student", "students fused", "exit", "exits together", or any other words.
        streams: what it sees.
        backbone: its name; several are joined by " + ".
        parameters: how many it has.
        macs_per_video: multiply-accumulates of a video, all its views together.
        latency_ms: from file to label, where it was measured.
        metrics: of its scores.
    """

    role: str
    streams: tuple[str, ...]
    backbone: str | None
    parameters: int | None
    macs_per_video: int | None
    latency_ms: Latency | None
    metrics: Metrics

    def __post_init__(self) -> None:
        _require_amount("parameters", self.parameters)
        _require_amount("macs_per_video", self.macs_per_video)

    @property
    def is_exit(self) -> bool:
        """Whether it is a part of another entry: a shallow exit, or all exits of a student together."""
        return self.role in ("exit", "exits together")

    @property
    def total_ms(self) -> float | None:
        """Milliseconds a video from file to label, where they were measured."""
        return None if self.latency_ms is None else self.latency_ms.total


@dataclass(frozen=True)
class Comparison:
    """Top-1 of model a minus that of model b, on the same videos."""

    a: str
    b: str
    top1_difference: Interval


@dataclass(frozen=True)
class EarlyExitPoint:
    """What a student gives when a video leaves by its first confident exit.

    Args:
        threshold: what the exit's largest probability must be above, 0 to 1.
        top1: accuracy.
        macs_per_video: mean over the videos.
        exits: {exit: share of the videos that leave by it}.
    """

    threshold: float
    top1: Interval
    macs_per_video: float
    exits: dict[str, float]

    def __post_init__(self) -> None:
        _require(0 <= self.threshold <= 1, f"threshold is {self.threshold:.6g}", "0 to 1")
        self.top1.check_from(0, where="top1")
        _require_amount("macs_per_video", self.macs_per_video, least=1)
        for name, share in self.exits.items():
            _require(0 <= share <= 1, f"exits.{name:.80} is {share:.6g}", "a share, 0 to 1")


@dataclass(frozen=True)
class Example:
    """A clip whose streams are drawn: the file in the run's pictures/, the video and its class."""

    picture: str
    video_id: str
    class_name: str


@dataclass(frozen=True)
class ScoredPart:
    """The videos that were scored.

    Args:
        manifest: path of the manifest's folder.
        split: number of the split.
        part: "test" or "val".
        num_videos: N.
        class_names: K names.
        trained_on: how many of the videos the run was trained on, after `videokd evaluate --seen score`.
    """

    manifest: str
    split: int | None
    part: str
    num_videos: int
    class_names: tuple[str, ...]
    trained_on: int | None = None

    def __post_init__(self) -> None:
        names = self.class_names
        different = len(set(names))
        _require(different == len(names) > 1, f"class_names has {different} different of {len(names)}", "all different")


def versions_now() -> dict[str, str]:
    """{software: its version}, and the "machine"."""
    machine = {"machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    return {"videokd": videokd.__version__, "torch": torch.__version__, "python": platform.python_version()} | machine


@dataclass(frozen=True, kw_only=True)
class Results:
    """What results.json holds.

    Args:
        run: name of the run.
        verb: "evaluate", "fuse", …
        command: that was typed.
        created: when, in ISO 8601.
        versions: {software: its version}, and "machine", "device", "gpu" and "precision" that it was measured on and in.
        dataset: the videos.
        seen: what was done with clips that the run was trained on: "refuse", "omit" or "score".
        views: "quick" or "full".
        num_segments: S.
        made_from: {"scores", "settings": names of what they were made from}; see `videokd.evaluation.protocol.keys_of`.
        weights: sha256 of the run's best.pt; missing in results of earlier versions.
        scores_sha256: {entry: sha256 of its scores file}; missing in results of earlier versions.
        entries: {name: one model}.
        comparisons: between two entries.
        early_exit: {student, or "fused": a point for each threshold}.
        examples: clips whose streams are drawn.
    """

    run: str
    verb: str
    command: str
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = field(default_factory=versions_now)
    dataset: ScoredPart
    seen: str | None = None
    views: str
    num_segments: int
    made_from: dict[str, str] | None = None
    weights: str | None = None
    scores_sha256: dict[str, str] | None = None
    entries: dict[str, Entry]
    comparisons: tuple[Comparison, ...] | None = None
    early_exit: dict[str, tuple[EarlyExitPoint, ...]] | None = None
    examples: tuple[Example, ...] | None = None

    def __post_init__(self) -> None:
        _require(bool(self.entries), "entries is empty", "one or more models")
        size = len(self.dataset.class_names)
        for name, entry in self.entries.items():
            _require(
                _ENTRY_NAME.fullmatch(name) is not None,
                f"entries.{name:.80}",
                "letters, digits, and one colon before an exit",
            )
            rows = size if entry.metrics.confusion is None else len(entry.metrics.confusion)
            _require(rows == size, f"entries.{name}.metrics.confusion has {rows} rows", f"{size}, one a class")
        for name, points in (self.early_exit or {}).items():
            _require(name in {*self.entries, "fused"}, f"early_exit.{name:.80}", "the names of entries")
            _require(bool(points), f"early_exit.{name} is []", "a list of one or more points")

    @property
    def models(self) -> dict[str, Entry]:
        """Entries that are models of their own; all of them where there are only exits."""
        return {name: entry for name, entry in self.entries.items() if not entry.is_exit} or dict(self.entries)

    def groups(self) -> dict[str, str]:
        """{video id: group} of the manifest; empty where it cannot be read at its path any more."""
        try:
            return {clip.video_id: clip.group for clip in Manifest.read(self.dataset.manifest).clips}
        except DataError:
            return {}


def results_name(part: str) -> str:
    """The file of a part's results.

    >>> results_name("test"), results_name("val")
    ('results.json', 'results-val.json')
    """
    return "results-val.json" if part == "val" else "results.json"


def scores_name(entry: str, *, part: str) -> str:
    """The file of the scores of an entry of results.json.

    >>> scores_name("motion", part="test"), scores_name("a:exit1", part="val")
    ('scores-motion.npz', 'scores-val-a-exit1.npz')
    """
    return f"scores-{'val-' if part == 'val' else ''}{entry.replace(':', '-')}.npz"


def results_of(folder: Path | str) -> Results:
    """The results of a run folder: of the test part, or of the validation part where only that was evaluated.

    Raises:
        DataError: there are none, or they are damaged.
    """
    folder = Path(folder)
    only_val = not (folder / results_name("test")).exists() and (folder / results_name("val")).is_file()
    return read_results(folder / results_name("val" if only_val else "test"))


def write_results(path: Path | str, results: Results) -> Path:
    """Writes `results` to a file at `path`, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    text = json.dumps(as_plain(results), indent=1, ensure_ascii=False, allow_nan=False)
    return write_whole(path, f"{text}\n".encode())


def as_plain(value: Any) -> Any:
    """Results, or a part of them, as JSON holds it; fields that may be missing are omitted where they are None."""
    if is_dataclass(value):
        items = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: as_plain(item) for field, item in items if item is not None or field.default is MISSING}
    if isinstance(value, Mapping):
        return {key: as_plain(item) for key, item in value.items()}
    return [as_plain(item) for item in value] if isinstance(value, tuple) else value


def read_results(path: Path | str) -> Results:
    """Reads and checks what `write_results` wrote, or whoever else did.

    Args:
        path: of the file, or of the run folder that holds `results.json`.

    Raises:
        DataError: there is none, it is not JSON, a key is missing, or a value is of the wrong kind or out of range.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "results.json"
    try:
        if not path.exists():
            raise DataError(f"{path} is not there. Run `videokd evaluate {path.parent}` to make it.")
        values = read_json(path)
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} is not a JSON file ({error}). Run `videokd evaluate {path.parent}` to make it again."
        ) from error
    where = str(path)
    try:
        values = checked(Results, known_part(Results, values, where=where), where=where)
    except ConfigError as error:
        raise DataError(f"{str(error).removesuffix('Correct it.')}Evaluate the run again.") from error
    results: Results = built(Results, values, where=where)
    return results
