from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from videokd.errors import DataError
from videokd.evaluation.results import Interval, Latency, Results, read_results, write_results

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
    results = json.loads(json.dumps(RESULTS))
    place: Any = results
    for key in keys[:-1]:
        place = place[key]
    if to is ...:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    return results


def written(folder: Path, results: Any) -> Path:
    (folder / "results.json").write_text(json.dumps(results))
    return folder / "results.json"


def test_results_are_written_as_they_were_read(tmp_path: Path) -> None:
    results = read_results(written(tmp_path, RESULTS))
    assert results == read_results(tmp_path)
    write_results(tmp_path / "run" / "results.json", results)
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == RESULTS
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["results.json"]


def test_results_are_values(tmp_path: Path) -> None:
    results = read_results(written(tmp_path, RESULTS))
    small = results.entries["small"]
    assert small.metrics.top1 == Interval(0.9, 0.8, 0.95)
    assert (small.parameters, small.macs_per_video, small.total_ms) == (11_176_512, 1_200_000_000, 3.0)
    assert results.dataset.class_names == ("a", "b")
    assert (results.seen, results.examples, small.metrics.confusion) == (None, None, None)


def test_new_results_say_when_and_with_what_they_were_made(tmp_path: Path) -> None:
    known = read_results(written(tmp_path, RESULTS))
    new = Results(
        run="new", verb="fuse", command="", dataset=known.dataset, views="full", num_segments=8, entries=known.entries
    )
    assert new.created > "2026-03-01"
    assert {"videokd", "torch", "python"} <= set(new.versions)


def test_unknown_keys_are_ignored(tmp_path: Path) -> None:
    results = changed("entries", "small", "colour", to="red") | {"later": [1]}
    assert read_results(written(tmp_path, results)) == read_results(written(tmp_path, RESULTS))


@pytest.mark.parametrize("key", ["backbone", "parameters", "macs_per_video", "latency_ms"])
def test_what_is_not_known_is_null(tmp_path: Path, key: str) -> None:
    path = written(tmp_path, changed("entries", "small", key, to=None))
    assert getattr(read_results(path).entries["small"], key) is None
    write_results(path, read_results(path))
    assert json.loads(path.read_text())["entries"]["small"][key] is None


METRICS = ("entries", "small", "metrics")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("entries",), ..., r"results\.json lacks entries \(accepted: run, verb"),
        (("entries",), {}, r"results\.json: entries is empty"),
        (("num_segments",), "25", r"results\.json\.num_segments is 25 \(accepted: a whole number\)\. Evaluate"),
        (("num_segments",), 2.5, r"results\.json\.num_segments is 2\.5 \(accepted: a whole number"),
        (("dataset", "class_names"), ..., r"results\.json\.dataset lacks class_names"),
        (
            ("dataset", "class_names"),
            ["a", "a"],
            r"dataset: class_names has 1 different of 2 \(accepted: all different",
        ),
        (("created",), ..., r"results\.json lacks created"),
        (("entries", "small"), 3, r"entries\.small is 3 \(accepted: a mapping with role"),
        (("entries", "small", "parameters"), "11 M", r"small\.parameters is 11 M \(accepted: a whole number"),
        (("entries", "small", "parameters"), -1, r"entries\.small: parameters is -1 \(accepted: 0 to 1e\+18\)"),
        (("entries", "small", "macs_per_video"), 10**30, r"entries\.small: macs_per_video is 1e\+30 \(accepted: 0 to"),
        (("entries", "small", "streams"), [1], r"entries\.small\.streams\[0\] is 1 \(accepted: a text"),
        ((*METRICS, "top5"), ..., r"entries\.small\.metrics lacks top5"),
        ((*METRICS, "top1"), {"value": 1}, r"metrics\.top1 lacks low, high"),
        ((*METRICS, "top1", "low"), -0.5, r"metrics: top1: low is -0\.5 \(accepted: a fraction, 0 to 1\)\. Evaluate"),
        ((*METRICS, "top1", "high"), 7, r"metrics\.top1: the interval: high is 7 \(accepted: a fraction, -1 to 1\)"),
        ((*METRICS, "confusion"), [[1, 2], [3]], r"metrics: confusion is not a square of counts"),
        ((*METRICS, "confusion"), [[1, -2], [3, 4]], r"metrics: confusion is not a square of counts"),
        ((*METRICS, "confusion"), [], r"entries\.small\.metrics\.confusion has 0 rows \(accepted: 2, one a class"),
        ((*METRICS, "per_class"), {"a": {"videos": 2}}, r"per_class\.a lacks accuracy"),
        (
            (*METRICS, "per_class"),
            {"a": {"videos": 2, "accuracy": 2}},
            r"per_class\.a: accuracy is 2\.0 \(accepted: 0 to",
        ),
        ((*METRICS, "per_class"), {"a": {"videos": -2, "accuracy": 1}}, r"per_class\.a: videos is -2 \(accepted: 0 to"),
        (("entries", "small", "latency_ms"), {"read": 1.0}, r"latency_ms lacks network, total"),
        (("entries", "small", "latency_ms", "p95"), -1, r"latency_ms: p95 is -1 \(accepted: 0 to"),
        (("comparisons", 0, "b"), ..., r"comparisons\[0\] lacks b"),
        (("comparisons", 0, "top1_difference"), {}, r"comparisons\[0\]\.top1_difference lacks value"),
        (("comparisons", 0, "top1_difference", "low"), -2, r"top1_difference: the interval: low is -2"),
        (("early_exit",), [], r"early_exit is \[\] \(accepted: a mapping"),
        (("early_exit", "small"), [], r"early_exit\.small is \[\] \(accepted: a list of one or more points\)"),
        (("early_exit", "other"), [], r"early_exit\.other \(accepted: the names of entries\)"),
        (("early_exit", "small", 0, "macs_per_video"), ..., r"early_exit\.small\[0\] lacks macs_per_video"),
        (("early_exit", "small", 0, "macs_per_video"), 0, r"small\[0\]: macs_per_video is 0 \(accepted: 1 to"),
        (("early_exit", "small", 0, "threshold"), 2, r"small\[0\]: threshold is 2 \(accepted: 0 to 1\)"),
        (("early_exit", "small", 0, "top1"), {"value": 1}, r"early_exit\.small\[0\]\.top1 lacks low, high"),
        (("early_exit", "small", 0, "top1", "low"), -0.5, r"small\[0\]: top1: low is -0\.5"),
        (("early_exit", "small", 0, "exits"), {"exit1": "all"}, r"exits\.exit1 is all \(accepted: a number"),
        (("early_exit", "small", 0, "exits"), {"exit1": 3}, r"small\[0\]: exits\.exit1 is 3 \(accepted: a share"),
        (("examples",), [{"picture": 1}], r"examples\[0\] lacks video_id, class_name"),
        (
            ("entries", "../up"),
            RESULTS["entries"]["small"],
            r"entries\.\.\./up \(accepted: letters, digits, and one colon",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, keys: tuple[str, ...], value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_results(written(tmp_path, changed(*keys, to=value)))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_must_be_finite(tmp_path: Path, number: float) -> None:
    with pytest.raises(DataError, match=r"low is -?(nan|inf) \(accepted: a fraction"):
        Interval(0.5, number, 0.9)
    with pytest.raises(DataError, match="total is -?(nan|inf)"):
        Latency(1.0, 2.0, number)
    with pytest.raises(DataError, match="is not a JSON file"):
        read_results(written(tmp_path, changed("num_segments", to=number)))


def test_missing_and_broken_files_name_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"results\.json is not there. Run `videokd evaluate "):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text('{"run": ')
    with pytest.raises(DataError, match=r"results\.json is not a JSON file .* Run `videokd evaluate "):
        read_results(tmp_path)
