"""The parts of results.json that may be missing, and the ranges of its numbers: what the report draws without looking again."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from videokd.errors import DataError

#: A file's name is made of an entry's: `student`, or `student:exit1`.
_ENTRY_NAME = re.compile(r"\w[\w .+-]*(:\w+)?")
_LARGEST = 1e18


def check_details(results: Mapping[str, Any], *, where: str) -> None:
    """Refuses results whose numbers, names or tables the report could not show.

    Args:
        results: whose keys and kinds are checked already.
        where: they come from, for the error.

    Raises:
        DataError: names the first part that is wrong.
    """
    names = results["dataset"]["class_names"]
    _check(_are_texts(names) and len(set(names)) == len(names) > 1, f"{where}: dataset.class_names", "different names")
    for name, entry in results["entries"].items():
        place = f"{where}: entries.{name}"
        _check(
            _ENTRY_NAME.fullmatch(name) is not None, f"{place:.200}", "letters, digits, and one colon before an exit"
        )
        _check(_are_texts(entry["streams"]), f"{place}.streams", "names")
        latency = entry["latency_ms"] or {}
        for key, number in (*((key, entry[key]) for key in ("parameters", "macs_per_video")), *latency.items()):
            _check(number is None or _is_within(number, 0, _LARGEST), f"{place}.{key}", "a number, 0 or more")
        _check_metrics(entry["metrics"], names, where=f"{place}.metrics")
    for number, comparison in enumerate(results.get("comparisons", ())):
        _check_interval(comparison["top1_difference"], -1, where=f"{where}: comparisons.{number}")
    for name, points in results.get("early_exit", {}).items():
        place = f"{where}: early_exit.{name}"
        _check(name in results["entries"] or name == "fused", place, "the names of entries")
        for point in points:
            _check_interval(point["top1"], 0, where=f"{place}.top1")
            _check(_is_within(point["macs_per_video"], 1, _LARGEST), f"{place}.macs_per_video", "a number above 0")
            _check(_is_within(point["threshold"], 0, 1), f"{place}.threshold", "0 to 1")
            _check(
                all(_is_within(share, 0, 1) for share in point["exits"].values()), f"{place}.exits", "shares, 0 to 1"
            )
    examples = results.get("examples", [])
    for example in examples if isinstance(examples, list) else [None]:
        known = example if isinstance(example, Mapping) else {}
        texts = [known.get(key) for key in ("picture", "video_id", "class_name")]
        _check(_are_texts(texts), f"{where}: examples", "a list of objects with picture, video_id and class_name")


def _check_metrics(metrics: Mapping[str, Any], class_names: list[str], *, where: str) -> None:
    for key in ("top1", "top5", "mean_class", "calibration_error"):
        if key in metrics:
            _check_interval(metrics[key], 0, where=f"{where}.{key}")
    if "confusion" in metrics:
        rows, size = metrics["confusion"], len(class_names)
        square = isinstance(rows, list) and len(rows) == size
        square = square and all(isinstance(row, list) and len(row) == size for row in rows)
        counts = square and all(type(count) is int and 0 <= count <= 10**12 for row in rows for count in row)
        _check(counts, f"{where}.confusion", f"{size} lists of {size} counts")
    if "per_class" in metrics:
        table = metrics["per_class"]
        sound = isinstance(table, Mapping) and all(
            isinstance(row, Mapping)
            and type(row.get("videos")) is int
            and (row.get("accuracy", 0) is None or _is_within(row.get("accuracy"), 0, 1))
            for row in table.values()
        )
        _check(sound, f"{where}.per_class", "an accuracy, 0 to 1, and a count of videos for each class")
    _check(isinstance(metrics.get("intervals_over", ""), str), f"{where}.intervals_over", "a word")


def _check_interval(interval: Any, least: float, *, where: str) -> None:
    ends = [interval.get(key) for key in ("value", "low", "high")] if isinstance(interval, Mapping) else [None]
    _check(
        all(_is_within(end, least - 1e-6, 1 + 1e-6) for end in ends), where, f"value, low and high, from {least} to 1"
    )


def _is_within(number: Any, least: float, most: float) -> bool:
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    return is_number and math.isfinite(number) and least <= number <= most


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _check(sound: bool, where: str, accepted: str) -> None:
    if not sound:
        raise DataError(f"{where} is damaged (accepted: {accepted}). Evaluate the run again.")
