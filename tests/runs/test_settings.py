"""Settings out of range are refused before anything is read or written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.test_verbs import refused
from videokd.errors import ConfigError
from videokd.recipes.evaluation_run import Evaluate
from videokd.runs.run_settings import Distill, Teach
from videokd.runs.settings import DataSettings, OptimSettings

WRONG: dict[type, dict[str, list[Any]]] = {
    OptimSettings: {
        "lr": [0, -1.0, math.nan, math.inf],
        "weight_decay": [-1.0, math.nan, math.inf],
        "epochs": [0, -1, 10**30],
        "warmup_epochs": [-1.0, math.nan, 1e300],
        "factor": [-0.1, math.nan, math.inf],
        "epsilon": [0.0, -1e-8, math.nan, math.inf],
        "clip_norm": [-1.0, math.nan, math.inf],
        "accumulate": [0, -1, 10**30],
        "mixup": [-0.1, math.nan, math.inf, 1e300],
        "early_stop": [-1, 10**30],
        "save_minutes": [-1, -0.5, math.nan, 10**7],
        "ema": [-0.1, 1.0, 1.5, math.nan],
        "dropout": [-0.1, 1.0, 1.5, math.nan],
        "body_factor": [-1.0, math.nan, math.inf],
        "input_factor": [-1.0, math.nan, math.inf],
        "milestones": [(-1.0,), (3.0, 2.0), (math.nan,), (1e300,), (2.0, 2.0)],
    },
    DataSettings: {
        "num_segments": [0, -3, 10**9],
        "input_size": [0, -32, 1, 10**9],
        "batch_size": [0, -1, 10**30],
        "workers": [-2, 10**6],
        "val_fraction": [-0.1, 0.9, 1.5, math.nan],
        "cache_positions": [0, -1, 10**9],
        "stored_views": [-1, 10**4],
    },
}
CASES = [(kind, name, value) for kind, of in WRONG.items() for name, values in of.items() for value in values]


@pytest.mark.parametrize(("kind", "name", "value"), CASES)
def test_numbers_out_of_range(kind: type, name: str, value: object) -> None:
    group = "optim" if kind is OptimSettings else "data"
    with pytest.raises(ConfigError, match=rf"^{group}\.{name} is .* \(accepted: .*\)\. Correct the setting\.$"):
        kind(**{name: value})


def test_stored_views_need_a_cache() -> None:
    with pytest.raises(ConfigError, match=r"data\.stored_views is 4, but data\.cache is empty"):
        DataSettings(stored_views=4)
    assert DataSettings(stored_views=4, cache="kept").stored_views == 4


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, math.nan])
def test_a_share_is_of_both_kinds_of_clips(share: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.unlabelled_share is .* \(accepted: above 0, below 1\)"):
        DataSettings(unlabelled_share=share)
    with pytest.raises(ConfigError, match=r"data\.batch_size is 1, and data\.unlabelled_share divides it"):
        DataSettings(unlabelled_share=0.5, batch_size=1)


def test_every_number_has_a_range() -> None:
    from dataclasses import fields

    for kind, of in WRONG.items():
        numbers = {field.name for field in fields(kind) if field.type in ("int", "float", "tuple[float, ...]")}
        assert numbers == set(of)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"motion": -1.0}}, "weights is"),
        ({"weights": {"motion": 0.0}}, "one of them above 0"),
        ({"weights": {"motion": math.nan}}, "weights is"),
        ({"temperatures": {"motion": 0.0}}, "temperatures"),
        ({"temperatures": {"motion": math.nan}}, "temperatures"),
        ({"temperatures": {"motion": math.inf}}, "temperatures"),
        ({"student_weights": {"iframe": 1.0, "motion": -1.0, "residual": 1.0}}, "student_weights is"),
        ({"split": 4}, "split is 4"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"out": ""}, "out is empty"),
        ({"manifest": ""}, "manifest is empty"),
        ({"optim": OptimSettings(early_stop=2), "data": DataSettings(val_fraction=0.0)}, "holds no clips out"),
    ],
)
def test_settings_of_distill(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Distill(**({"out": "x", "manifest": "y", "teachers": {"motion": "z"}} | settings))


def test_an_early_stop_needs_clips_to_look_at() -> None:
    with pytest.raises(ConfigError, match=r"optim\.early_stop is 2, but data\.val_fraction 0"):
        Teach("x", "y", "motion", optim=OptimSettings(early_stop=2), data=DataSettings(val_fraction=0.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_segments": 10**9}, "num_segments 1000000000"),
        ({"workers": 10**6}, "workers -1 to 256"),
    ],
)
def test_settings_of_evaluate(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Evaluate("run", **settings)


@pytest.mark.parametrize(
    "option",
    ["temperature=0", "temperature=-1", "alpha=1.5", "beta=-1", "gamma=2", "hint_weight=-1", "target_weights=[-1,1]"],
)
def test_the_objective_is_checked_before_anything_is_written(
    option: str, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "distill", f"--manifest={prepared}", f"--out={tmp_path / 'x'}", f"--objective.{option}")
    assert option.partition("=")[0] in message
    assert not (tmp_path / "x").exists()
