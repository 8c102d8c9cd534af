"""A run folder of strangers, damaged: one line, whatever its files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from videokd.errors import DataError
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, build_students
from videokd.runs.checkpoint import save_checkpoint
from videokd.runs.run_folder import load_run
from videokd.runs.run_settings import Teach
from videokd.runs.settings import OptimSettings

SOUND = "verb: teach\nout: o\nmanifest: m\nstream: motion\n"


def run_of(folder: Path, config: str = SOUND, **changes: Any) -> Path:
    students = build_students(
        {"a": NetworkSpec(("motion",), "test_resnet", 2, 32)}, PredictionSpec(["x", "y"], 3), seed=0
    )
    payload = {"description": students.description(), "state": students.state_dict(), "role": "student", "epoch": 0}
    save_checkpoint(folder / "best.pt", payload | changes)
    (folder / "config.yaml").write_text(config)
    return folder


def test_a_sound_run_is_loaded(tmp_path: Path) -> None:
    assert load_run(run_of(tmp_path)).settings == Teach("o", "m", "motion")


@pytest.mark.parametrize(
    "changes",
    [
        {"description": []},
        {"description": None},
        {"description": {}},
        {"state": []},
        {"state": {}},
        {"state": {"members.a": 3}},
        {"state": {"members.a": torch.zeros(1).expand(10**9)}},
        {"epoch": "x"},
    ],
)
def test_damaged_networks(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"best\.pt"):
        load_run(run_of(tmp_path, **changes))


def test_a_description_of_a_giant(tmp_path: Path) -> None:
    """Four words that would take gigabytes; they are compared with the weights first."""
    spec = NetworkSpec(("motion",), "vit_giant_patch14_224", 2, 224)
    with torch.device("meta"):
        students = build_students({"a": spec}, PredictionSpec(["x", "y"], 3), seed=0)
    with pytest.raises(DataError, match="is of another architecture"):
        load_run(run_of(tmp_path, description=students.description()))


@pytest.mark.parametrize(
    "config",
    [
        "a: [",
        "- 1",
        "a: &x 1\nb: *x",
        f"{SOUND}split: 4",
        f"{SOUND}data: 3",
        f"{SOUND}depth: 3",
        "!!python/name:os.system",
        "",
    ],
)
def test_damaged_settings(tmp_path: Path, config: str) -> None:
    with pytest.raises(DataError, match=r"config\.yaml"):
        load_run(run_of(tmp_path, config))


def test_settings_of_earlier_versions(tmp_path: Path) -> None:
    """Those that changed nothing are passed over; the others cannot be obeyed any more, and are named."""
    old = "data: {blank_invalid: false}\noptim: {label_smoothing: 0.0, lr: 0.5}\n"
    settings = load_run(run_of(tmp_path, SOUND + old)).settings
    assert settings == Teach("o", "m", "motion", optim=OptimSettings(lr=0.5))
    with pytest.raises(DataError, match=r"config\.yaml is damaged: data\.blank_invalid no longer exists"):
        load_run(run_of(tmp_path, SOUND + "data: {blank_invalid: true}"))
