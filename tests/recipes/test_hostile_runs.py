"""Runs that are damaged, or made to harm whoever loads them: one line, exit 2, whatever the file holds."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes.test_verbs import refused
from tests.small_runs import TINY
from videokd.runs import run_folder

QUICK = ("--views=quick", "--workers=0", "--timed_videos=0", "--pictures=0")
CONFIGS = {
    "no YAML": "a: [1",
    "a list": "- 1\n",
    "a word": "hello",
    "empty": "",
    "no manifest": "split: 1\ndata: {val_fraction: 0.1}\n",
    "no path": "manifest: null\nsplit: 1\ndata: {val_fraction: 0.1}\n",
    "a list of paths": "manifest: [data]\nsplit: 1\ndata: {val_fraction: 0.1}\n",
    "no split": "manifest: data\nsplit: one\ndata: {val_fraction: 0.1}\n",
    "data is a list": "manifest: data\nsplit: 1\ndata: [1]\n",
    "no share": "manifest: data\nsplit: 1\ndata: {val_fraction: x}\n",
    "not finite": "manifest: data\nsplit: 1\ndata: {val_fraction: .nan}\n",
    "code": "!!python/object/apply:os.getcwd []\n",
    "aliases": "manifest: &a data\nsplit: 1\nout: *a\ndata: {val_fraction: 0.1}\n",
    "binary": "\x00\x01",
}


@pytest.fixture
def run(teacher_runs: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(teacher_runs["motion"], tmp_path / "run"))


@pytest.mark.parametrize("text", CONFIGS.values(), ids=list(CONFIGS))
def test_a_damaged_config(text: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "config.yaml").write_text(text, encoding="utf-8")
    assert "config.yaml is damaged" in refused(capsys, "evaluate", str(run), *QUICK)
    assert "config.yaml is damaged" in refused(capsys, "export", str(run), "--out", str(tmp_path / "export"))


def test_a_config_that_multiplies_is_not_resumed(run: Path, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = "".join(f"l{i}: &l{i} {{{', '.join(f'k{j}: *l{i - 1}' for j in range(9))}}}\n" for i in range(1, 30))
    with (run / "config.yaml").open("a", encoding="utf-8") as file:
        file.write(f"l0: &l0 {{a: 1}}\n{levels}")
    resume = ("teach", "--stream=motion", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={run}", *TINY)
    assert "cannot be read" in refused(capsys, *resume)


@pytest.mark.parametrize(
    "change",
    [{"fit": [["a" * 64, "b" * 64, 1e999]]}, {"fit": []}, {"fit": [["a", "b", 0]]}, {"held_out": [[1, 2, 0]]}],
    ids=["infinite", "nothing", "no sha256", "numbers"],
)
def test_a_damaged_record_of_clips(change: dict[str, Any], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "trained_on.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert "trained_on.json is damaged" in refused(capsys, "evaluate", str(run), *QUICK)


def test_a_folder_is_no_record_of_clips(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was taken for a run of an older version, which has none."""
    (run / "trained_on.json").unlink()
    (run / "trained_on.json").mkdir()
    assert "trained_on.json is damaged" in refused(capsys, "evaluate", str(run), *QUICK)


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(path, weights_only=True)
    change(content["payload"])
    torch.save(content, path)


def each_weight(change: Callable[[torch.Tensor], object]) -> Callable[[dict[str, Any]], object]:
    return lambda payload: payload.update(
        state={name: change(v) if v.is_floating_point() else v for name, v in payload["state"].items()}
    )


def member(**settings: object) -> Callable[[dict[str, Any]], object]:
    return lambda payload: payload["description"]["members"]["motion"].update(settings)


NETWORKS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no object": lambda payload: payload.update(description=[1]),
    "a list of weights": lambda payload: payload.update(state=[1]),
    "a word for a weight": lambda payload: payload["state"].update({next(iter(payload["state"])): "x"}),
    "a number for a name": lambda payload: payload["state"].update({5: torch.zeros(1)}),
    "complex numbers": each_weight(lambda values: values.to(torch.complex64)),
    "whole numbers": each_weight(lambda values: values.to(torch.int8)),
    "no values": each_weight(lambda values: values.to("meta")),
    "sparse": each_weight(lambda values: values.to_sparse() if values.ndim == 2 else values),
    "terabytes": member(num_classes=2_000_000_000),
    "more classes than names": member(num_classes=300_000),
    "huge pictures": member(input_size=1_000_000),
}


@pytest.mark.parametrize("change", NETWORKS.values(), ids=list(NETWORKS))
def test_networks_that_are_none(
    change: Callable[[dict[str, Any]], object], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Complex and whole numbers were taken as weights, in part."""
    changed(run / "best.pt", change)
    assert "best.pt" in refused(capsys, "evaluate", str(run), *QUICK)


def without(part: str) -> Callable[[dict[str, Any]], object]:
    return lambda payload: payload.pop(part)


def with_word(part: str) -> Callable[[dict[str, Any]], object]:
    return lambda payload: payload.update({part: "x"})


PARTS = ("students", "update", "progress")
CHECKPOINTS: dict[str, Callable[[dict[str, Any]], object]] = {
    **{f"no {part}": without(part) for part in PARTS},
    **{f"a word for {part}": with_word(part) for part in PARTS},
    "a word for the step": lambda payload: payload["progress"].update(step="x"),
    "a step below 0": lambda payload: payload["progress"].update(step=-3),
    "no best": lambda payload: payload["progress"].update(best_top1=float("nan")),
    "an unknown setting": lambda payload: payload["progress"].update(other=1),
    "a history of numbers": lambda payload: payload["progress"].update(history=[1]),
}


@pytest.mark.parametrize("change", CHECKPOINTS.values(), ids=list(CHECKPOINTS))
def test_checkpoints_that_are_none(
    change: Callable[[dict[str, Any]], object], run: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(run / "checkpoint.pt", change)
    resume = ("teach", "--stream=motion", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={run}", *TINY)
    assert "checkpoint.pt is damaged" in refused(capsys, *resume)


def test_weights_that_are_replaced_while_they_are_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of a run that is still being trained were kept as those of its next best epoch."""
    read = run_folder.load_checkpoint

    def replaced_after(path: Path) -> dict[str, Any]:
        payload = read(path)
        if payload["epoch"] != 77:
            changed(path, lambda payload: payload.update(epoch=77))
        return payload

    monkeypatch.setattr(run_folder, "load_checkpoint", replaced_after)
    before = hashlib.sha256((run / "best.pt").read_bytes()).hexdigest()
    assert run_folder.load_run(run).weights == hashlib.sha256((run / "best.pt").read_bytes()).hexdigest() != before
