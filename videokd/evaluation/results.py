"""`results.json`: what a run measured, written by the recipes and read by the report.

    {"run": name, "verb": "teach" | "distill" | "evaluate" | "fuse", "command": "videokd …", "created": ISO 8601,
     "versions": {"videokd": …, "torch": …, "python": …},
     "dataset": {"manifest": path, "split": 1, "part": "test", "num_videos": 168, "class_names": [K names]},
     "views": "quick" | "full", "num_segments": 25,
     "entries": {name: {
         "role": "teacher" | "fused teachers" | "student" | "students fused" | "exit" | "exits together" | any other words,
         "streams": [names], "backbone": name or null, "parameters": count or null, "macs_per_video": count or null,
         "latency_ms": {"read": …, "network": …, "total": …, "p95": …} (a video, from file to label: medians, and the 95th
                       percentile of the total, which may be missing) or null,
         "metrics": what `videokd.evaluation.metrics.metrics` returns; confusion and per_class may be missing}},
     "comparisons": [{"a": name, "b": name, "top1_difference": {"value", "low", "high"}}],
     "early_exit": {student: [{"threshold": 0.9, "top1": {"value", "low", "high"}, "macs_per_video": mean over the videos,
                               "exits": {"exit1": share of the videos that leave by it, …, "deepest": share}}]},
     "examples": [{"picture": file in pictures/, "video_id": …, "class_name": …}]}

`comparisons`, `early_exit` and `examples` may be missing; keys beyond these are kept and ignored. A student's exits are entries named
`student:exit1` and so on, cut off there: their parameters and MACs are those of the network up to the exit. `student:ensemble` is
the mean of the logits of all exits, the deepest among them. In `early_exit` a video leaves by the first exit whose largest
probability is above the threshold, and pays for the exits it passed too; under "fused" each student leaves by itself, and the
shares are means over the students that have exits. Scores lie in `scores-student-exit1.npz`.

Of the clips held out in training there are `results-val.json` and `scores-val-student.npz` beside the files of the test part.
"""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import videokd
from videokd.datasets.manifest import Manifest
from videokd.errors import DataError
from videokd.evaluation.results_details import check_details
from videokd.files import read_json, write_whole

Kinds = type | tuple[type, ...]

_NUMBER = (int, float)
_NUMBER_OR_NULL = (int, float, type(None))
_RUN: Mapping[str, Kinds] = {
    "run": str,
    "verb": str,
    "command": str,
    "created": str,
    "versions": Mapping,
    "dataset": Mapping,
    "views": str,
    "num_segments": int,
    "entries": Mapping,
}
_DATASET: Mapping[str, Kinds] = {
    "manifest": str,
    "split": (int, str, type(None)),
    "part": str,
    "num_videos": int,
    "class_names": list,
}
_ENTRY: Mapping[str, Kinds] = {
    "role": str,
    "streams": list,
    "backbone": (str, type(None)),
    "parameters": _NUMBER_OR_NULL,
    "macs_per_video": _NUMBER_OR_NULL,
    "latency_ms": (Mapping, type(None)),
    "metrics": Mapping,
}
_LATENCY: Mapping[str, Kinds] = {"read": _NUMBER_OR_NULL, "network": _NUMBER_OR_NULL, "total": _NUMBER}
_METRICS: Mapping[str, Kinds] = {"top1": Mapping, "top5": Mapping, "mean_class": Mapping}
_INTERVAL: Mapping[str, Kinds] = {"value": _NUMBER, "low": _NUMBER, "high": _NUMBER}
_EARLY_EXIT: Mapping[str, Kinds] = {"threshold": _NUMBER, "top1": Mapping, "macs_per_video": _NUMBER, "exits": Mapping}
_COMPARISON: Mapping[str, Kinds] = {"a": str, "b": str, "top1_difference": Mapping}


def results_name(part: str) -> str:
    """The file of a part's results.

    >>> results_name("test"), results_name("val")
    ('results.json', 'results-val.json')
    """
    return f"results{_ending(part)}.json"


def scores_name(entry: str, *, part: str) -> str:
    """The file of the scores of an entry of results.json.

    >>> scores_name("motion", part="test"), scores_name("a:exit1", part="val")
    ('scores-motion.npz', 'scores-val-a-exit1.npz')
    """
    return f"scores{_ending(part)}-{entry.replace(':', '-')}.npz"


def _ending(part: str) -> str:
    return "-val" if part == "val" else ""


def results_of(folder: Path | str) -> dict[str, Any]:
    """The results of a run folder: of the test part, or of the validation part where only that was evaluated.

    Raises:
        DataError: there are none, or they are damaged.
    """
    folder = Path(folder)
    only_val = not (folder / results_name("test")).exists() and (folder / results_name("val")).is_file()
    return read_results(folder / results_name("val" if only_val else "test"))


def write_results(path: Path | str, results: Mapping[str, Any]) -> Path:
    """Check the results and write them, whole or not at all.

    Args:
        path: of the file.
        results: as this module's docstring has it.

    Returns:
        The path.

    Raises:
        DataError: a key is missing or of the wrong kind, or a number is not finite.
        DataError: it cannot be written.
    """
    _check_results(results, where=str(path))
    try:
        text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path}: the results do not fit into JSON: {error} (accepted: finite plain numbers)"
        ) from error
    return write_whole(path, f"{text}\n".encode())


def read_results(path: Path | str) -> dict[str, Any]:
    """Read and check what `write_results` wrote.

    Args:
        path: of the file, or of the run folder that holds `results.json`.

    Raises:
        DataError: there is none, it is no JSON, or a key is missing or of the wrong kind.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "results.json"
    try:
        if not path.exists():
            raise DataError(f"{path} is not there. Run `videokd evaluate {path.parent}` to make it.")
        results = read_json(path)
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} is not a JSON file ({error}). Run `videokd evaluate {path.parent}` to make it again."
        ) from error
    _check_results(results, where=str(path))
    check_details(results, where=str(path))
    return dict(results)


def _check_results(results: Any, *, where: str) -> None:
    _check(results, _RUN, where=where)
    trained_on: Mapping[str, Kinds] = {"trained_on": int} if "trained_on" in results["dataset"] else {}
    _check(results["dataset"], {**_DATASET, **trained_on}, where=f"{where}: dataset")
    if not results["entries"]:
        raise DataError(f"{where}: entries is empty (accepted: one or more models)")
    for name, entry in results["entries"].items():
        _check(entry, _ENTRY, where=f"{where}: entries.{name}")
        _check(entry["metrics"], _METRICS, where=f"{where}: entries.{name}.metrics")
        for metric in _METRICS:
            _check(entry["metrics"][metric], _INTERVAL, where=f"{where}: entries.{name}.metrics.{metric}")
        if entry["latency_ms"] is not None:
            _check(entry["latency_ms"], _LATENCY, where=f"{where}: entries.{name}.latency_ms")
    for number, comparison in enumerate(results.get("comparisons", ())):
        _check(comparison, _COMPARISON, where=f"{where}: comparisons.{number}")
        _check(comparison["top1_difference"], _INTERVAL, where=f"{where}: comparisons.{number}.top1_difference")
    _check_early_exit(results.get("early_exit", {}), where=f"{where}: early_exit")


def _check_early_exit(curves: Any, *, where: str) -> None:
    _check(curves, {}, where=where)
    for name, points in curves.items():
        if not isinstance(points, list) or not points:
            raise DataError(f"{where}.{name} is {points!r} (accepted: a list of one or more points)")
        for number, point in enumerate(points):
            place = f"{where}.{name}.{number}"
            _check(point, _EARLY_EXIT, where=place)
            _check(point["top1"], _INTERVAL, where=f"{place}.top1")
            _check(point["exits"], dict.fromkeys(point["exits"], _NUMBER), where=f"{place}.exits")


def _check(values: Any, accepted: Mapping[str, Kinds], *, where: str) -> None:
    if not isinstance(values, Mapping):
        raise DataError(f"{where} is a {type(values).__name__} (accepted: an object with {', '.join(accepted)})")
    missing = [key for key in accepted if key not in values]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)} (accepted: an object with {', '.join(accepted)})")
    for key, kinds in accepted.items():
        if not isinstance(values[key], kinds) or isinstance(values[key], bool):
            names = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
            raise DataError(f"{where}.{key} is {values[key]!r} (accepted: {names})"[:500])


def about(run: str, *, verb: str, command: str) -> dict[str, Any]:
    """The head of results.json: which run, made how, when and with what."""
    return {
        "run": run,
        "verb": verb,
        "command": command,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "videokd": videokd.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        },
    }


def describe_dataset(manifest: Manifest, *, split: int, part: str, num_videos: int) -> dict[str, Any]:
    """The dataset as results.json names it."""
    return {
        "manifest": str(manifest.root),
        "split": split,
        "part": part,
        "num_videos": num_videos,
        "class_names": list(manifest.class_names),
    }
