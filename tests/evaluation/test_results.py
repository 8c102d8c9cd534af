from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from videokd.errors import DataError
from videokd.evaluation.results import read_results, write_results

INTERVAL = {"value": 0.9, "low": 0.8, "high": 0.95}
RESULTS: dict[str, Any] = {
    "run": "demo",
    "verb": "evaluate",
    "command": "videokd evaluate demo",
    "created": "2026-03-01T12:00:00+00:00",
    "versions": {"videokd": "0.1.0"},
    "dataset": {"manifest": "m.parquet", "split": 1, "part": "test", "num_videos": 2, "class_names": ["a", "b"]},
    "views": "quick",
    "num_segments": 25,
    "entries": {
        "small": {
            "role": "student",
            "streams": ["iframe"],
            "backbone": "resnet18",
            "parameters": 11_176_512,
            "macs_per_video": 1.2e9,
            "latency_ms": {"read": 1.0, "network": 2.0, "total": 3.0},
            "metrics": {"top1": INTERVAL, "top5": INTERVAL, "mean_class": INTERVAL},
        }
    },
    "comparisons": [{"a": "small", "b": "small", "top1_difference": INTERVAL}],
    "early_exit": {
        "small": [
            {"threshold": 0.9, "top1": INTERVAL, "macs_per_video": 1e9, "exits": {"exit1": 0.25, "deepest": 0.75}}
        ]
    },
}


def changed(*keys: str | int, to: Any) -> dict[str, Any]:
    results = copy.deepcopy(RESULTS)
    place: Any = results
    for key in keys[:-1]:
        place = place[key]
    if to is ...:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    return results


def test_results_come_back_from_the_file_or_its_folder(tmp_path: Path) -> None:
    path = write_results(tmp_path / "run" / "results.json", RESULTS)
    assert read_results(path) == read_results(path.parent) == RESULTS
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize("key", ["backbone", "parameters", "macs_per_video", "latency_ms"])
def test_what_is_not_known_is_null(tmp_path: Path, key: str) -> None:
    write_results(tmp_path / "results.json", changed("entries", "small", key, to=None))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("entries",), ..., r"results\.json lacks entries \(accepted: an object with run, verb"),
        (("entries",), {}, r"results\.json: entries is empty"),
        (("num_segments",), "25", r"results\.json\.num_segments is '25' \(accepted: int\)"),
        (("dataset", "class_names"), ..., r"results\.json: dataset lacks class_names"),
        (("entries", "small"), 3, r"entries\.small is a int \(accepted: an object with role"),
        (
            ("entries", "small", "parameters"),
            "11 M",
            r"entries\.small\.parameters is '11 M' \(accepted: int or float or",
        ),
        (("entries", "small", "metrics", "top5"), ..., r"entries\.small\.metrics lacks top5"),
        (("entries", "small", "metrics", "top1"), {"value": 1}, r"metrics\.top1 lacks low, high"),
        (("entries", "small", "latency_ms"), {"read": 1.0}, r"latency_ms lacks network, total"),
        (("comparisons", 0, "b"), ..., r"comparisons\.0 lacks b"),
        (("early_exit",), [], r"early_exit is a list"),
        (("early_exit", "small"), [], r"early_exit\.small is \[\] \(accepted: a list of one or more points\)"),
        (("early_exit", "small", 0, "macs_per_video"), ..., r"early_exit\.small\.0 lacks macs_per_video"),
        (("early_exit", "small", 0, "top1"), {"value": 1}, r"early_exit\.small\.0\.top1 lacks low, high"),
        (("early_exit", "small", 0, "exits"), {"exit1": "all"}, r"exits\.exit1 is 'all' \(accepted: int or float\)"),
        (("comparisons", 0, "top1_difference"), {}, r"comparisons\.0\.top1_difference lacks value"),
    ],
)
def test_what_does_not_fit_is_named_when_written_and_read(
    tmp_path: Path, keys: tuple[str, ...], value: Any, message: str
) -> None:
    results = changed(*keys, to=value)
    with pytest.raises(DataError, match=message):
        write_results(tmp_path / "results.json", results)
    assert not list(tmp_path.iterdir())
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(DataError, match=message):
        read_results(tmp_path)


def test_numbers_must_be_finite(tmp_path: Path) -> None:
    results = changed("entries", "small", "metrics", "top1", "low", to=math.nan)
    with pytest.raises(DataError, match="do not fit into JSON"):
        write_results(tmp_path / "results.json", results)


def test_missing_and_broken_files_name_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"results\.json is not there. Run `videokd evaluate "):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text('{"run": ')
    with pytest.raises(DataError, match=r"results\.json is not a JSON file .* Run `videokd evaluate "):
        read_results(tmp_path)
