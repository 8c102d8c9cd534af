"""A run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from videokd.errors import ConfigError, DataError
from videokd.runs.checkpoint import save_checkpoint
from videokd.runs.run_folder import RunFolder
from videokd.training.record import RunLog

SETTINGS = {
    "streams": ("motion", "iframe"),
    "manifest": Path("data/manifest.parquet"),
    "optimizer": {"name": "sgd", "rate": 1e-5},
    "loader": {"num_workers": 4},
    "note": None,
}


def test_settings_are_written_as_plain_yaml(tmp_path):
    run = RunFolder(tmp_path / "runs" / "a")
    assert not run.prepare(SETTINGS)
    assert yaml.safe_load(run.config.read_text()) == {
        "streams": ["motion", "iframe"],
        "manifest": "data/manifest.parquet",
        "optimizer": {"name": "sgd", "rate": 1e-5},
        "loader": {"num_workers": 4},
        "note": None,
    }
    assert [file.name for file in run.path.iterdir()] == ["config.yaml"]
    assert (run.best.name, run.checkpoint.name) == ("best.pt", "checkpoint.pt")


def test_the_same_settings_resume(tmp_path):
    run = RunFolder(tmp_path)
    run.prepare(SETTINGS)
    save_checkpoint(run.checkpoint, {"step": 1})
    assert run.prepare(SETTINGS)
    assert run.prepare(SETTINGS | {"loader": {"num_workers": 8}}, may_differ=("loader.num_workers",))


def test_a_folder_without_a_checkpoint_takes_new_settings(tmp_path):
    run = RunFolder(tmp_path)
    run.prepare(SETTINGS)
    assert not run.prepare(SETTINGS | {"note": "second try"})
    assert yaml.safe_load(run.config.read_text())["note"] == "second try"


def test_a_run_with_other_settings_is_refused(tmp_path):
    run = RunFolder(tmp_path / "a")
    run.prepare(SETTINGS)
    save_checkpoint(run.checkpoint, {"step": 1})
    before = run.config.read_bytes()
    with pytest.raises(ConfigError, match=r"holds a run with optimizer\.rate 1e-05, not 0\.1\. Choose another --out"):
        run.prepare(SETTINGS | {"optimizer": {"name": "sgd", "rate": 0.1}})
    with pytest.raises(ConfigError, match=r"loader\.num_workers 4, not None"):
        run.prepare({name: value for name, value in SETTINGS.items() if name != "loader"})
    assert run.config.read_bytes() == before
    for damaged in ("{", "[1]", ""):
        run.config.write_text(damaged)
        with pytest.raises(DataError, match=r"config\.yaml, beside a checkpoint, cannot be read"):
            run.prepare(SETTINGS)
    with pytest.raises(ConfigError, match=r"is a file .*Choose another --out"):
        RunFolder(run.config).prepare(SETTINGS)


def test_ranks_that_do_not_write_leave_nothing(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert not run.prepare(SETTINGS, writes=False)
    assert not run.path.exists()
    run.prepare(SETTINGS)
    save_checkpoint(run.checkpoint, {"step": 1})
    before = {file.name: file.stat().st_mtime_ns for file in run.path.iterdir()}
    assert run.prepare(SETTINGS, writes=False)
    with RunLog(run.path, writes=False) as log:
        log.record(0, 0, {"a/ce": 1.5})
    assert {file.name: file.stat().st_mtime_ns for file in run.path.iterdir()} == before
    with pytest.raises(ConfigError, match="holds a run with note None, not other"):
        run.prepare(SETTINGS | {"note": "other"}, writes=False)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "run", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        (Path("/proc/videokd/run"), "cannot be made"),
    ):
        with pytest.raises(ConfigError, match=rf"{reason}.*Choose another --out"):
            RunFolder(path).prepare(SETTINGS)


def test_one_training_at_a_time(tmp_path):
    run = RunFolder(tmp_path / "run")
    refused = pytest.raises(DataError, match=r"run is being trained by another process .*choose another --out")
    with run.kept(), refused, run.kept():
        pass
    with run.kept():
        pass
