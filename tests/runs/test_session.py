"""What surrounds a training: which settings may change when it resumes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from videokd.errors import ConfigError
from videokd.runs.checkpoint import save_checkpoint
from videokd.runs.run_folder import RunFolder
from videokd.runs.run_settings import Teach
from videokd.runs.session import training_session
from videokd.runs.settings import DataSettings, OptimSettings
from videokd.runs.trained_on import TrainedOn

TRAINED_ON = TrainedOn((("a" * 64, "b" * 64, 0),), (), frozenset(), {}, ("wave", "clap"), True)


@pytest.fixture
def settings(tmp_path):
    """Of a run that has a checkpoint."""
    settings = Teach(str(tmp_path), "data", "motion", device="cpu", test="quick")
    with training_session(settings, TRAINED_ON) as session:
        save_checkpoint(session.folder.checkpoint, {})
    return settings


def test_pieces_and_workers_may_change(settings, capsys):
    capsys.readouterr()
    with training_session(replace(settings, optim=OptimSettings(accumulate=4)), TRAINED_ON) as session:
        (line,) = capsys.readouterr().err.splitlines()
        save_checkpoint(session.folder.checkpoint, {})
    assert "optim.accumulate is 4, and was 1: the mean gradient of a batch stays the same, but BatchNorms" in line
    other = replace(settings, optim=OptimSettings(accumulate=4), data=DataSettings(workers=0))
    with training_session(other, TRAINED_ON) as session:
        assert "optim.accumulate" not in capsys.readouterr().err
        written = yaml.safe_load(RunFolder(session.folder.path).config.read_text())
    assert (written["optim"]["accumulate"], written["data"]["workers"]) == (4, 0)


def test_the_settings_of_a_run_that_does_no_more_steps_stay_those_of_its_steps(settings):
    other = replace(settings, optim=OptimSettings(accumulate=7), data=DataSettings(workers=0))
    with training_session(other, TRAINED_ON) as session:
        pass
    written = yaml.safe_load(session.folder.config.read_text())
    assert (written["optim"]["accumulate"], written["data"]["workers"]) == (1, 0)


def test_the_batch_size_may_not_and_the_line_says_why(settings):
    with (
        pytest.raises(
            ConfigError,
            match=r"data\.batch_size 32, not 16\. Its steps.*To need less memory, raise `--optim\.accumulate`",
        ),
        training_session(replace(settings, data=DataSettings(batch_size=16)), TRAINED_ON),
    ):
        pass
