"""Numbers of steps stay on the device until several are read together; the log is the same as if each were read at once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.small_networks import spec
from videokd.errors import VideoKDError
from videokd.models.students import PredictionSpec, build_students
from videokd.runs.device import Precision
from videokd.runs.ranks import Ranks
from videokd.runs.run_folder import RunFolder
from videokd.runs.session import Session
from videokd.training.record import Recorder
from videokd.training.step_numbers import StepNumbers, StepsOnDevice
from videokd.training.update import Updated

LABEL = torch.tensor([0, 1, -1, 1])


def recorder(folder: Path, *, steps_at_once: int | None = None) -> Recorder:
    session = Session(RunFolder(folder), Precision("fp32", torch.device("cpu")), Ranks())
    students = build_students({"a": spec("motion")}, PredictionSpec(list("vwxyz"), 3), seed=0)
    return Recorder(session, students, first_step=0, total_steps=100, steps_at_once=steps_at_once)


def record(into: Recorder, steps: range, *, bad: int | None = None) -> None:
    for step in steps:
        into.begin_step()
        into.batch_is_here()
        part = torch.tensor(math.nan if step == bad else step + 0.5)
        updated = Updated(part, {"a/ce": part}, {"a": torch.tensor([0, 1, 1, 0])}, torch.tensor(2.0))
        into.step(step, step // 5, updated, LABEL, {"t": torch.tensor([0, 0, 0, 0])}, rate=0.1)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_on_a_cpu_each_step_is_written_at_once(tmp_path: Path) -> None:
    with recorder(tmp_path) as into:
        for step in range(6):
            record(into, range(step, step + 1))
            assert len(lines(tmp_path)) == step + 1


def test_a_block_is_written_when_it_is_full_and_the_rest_at_the_end(tmp_path: Path) -> None:
    with recorder(tmp_path, steps_at_once=4) as into:
        record(into, range(2))  # one by one, until the clock has told how long a step takes
        assert len(lines(tmp_path)) == 2
        record(into, range(2, 5))
        assert len(lines(tmp_path)) == 2
        record(into, range(5, 6))
        assert len(lines(tmp_path)) == 6
        record(into, range(6, 8))
        assert len(lines(tmp_path)) == 6
        into.flush()
        assert len(lines(tmp_path)) == 8
        record(into, range(8, 9))
    assert [line["step"] for line in lines(tmp_path)] == list(range(9))


def test_blocks_change_nothing_but_the_clock(tmp_path: Path) -> None:
    found = []
    for steps_at_once in (1, 32):
        folder = tmp_path / str(steps_at_once)
        folder.mkdir()
        with recorder(folder, steps_at_once=steps_at_once) as into:
            record(into, range(12))
        clocks = ("samples_per_second", "data_wait_share", "resident_gib")
        found.append([{name: value for name, value in line.items() if name not in clocks} for line in lines(folder)])
    assert found[0] == found[1]
    assert found[0][7] == {
        "step": 7,
        "epoch": 1,
        "a/ce": 7.5,
        "loss/total": 7.5,
        "a/train_top1": pytest.approx(2 / 3),
        "agreement/a/t": 0.5,
        "gradient_norm": 2.0,
        "lr": 0.1,
    }


def test_a_loss_that_is_not_finite_is_named_by_its_step(tmp_path: Path) -> None:
    with recorder(tmp_path, steps_at_once=32) as into:
        record(into, range(12), bad=9)
        assert len(lines(tmp_path)) == 2  # it has not been read yet
        with pytest.raises(VideoKDError, match=r"step 9: a/ce is nan \(the student sees motion\)"):
            into.flush()
    assert [line["step"] for line in lines(tmp_path)] == list(range(9))


def interrupted(folder: Path, *, bad: int | None = None) -> None:
    with recorder(folder, steps_at_once=32) as into:
        record(into, range(7), bad=bad)
        raise RuntimeError("out of memory")


def test_an_error_elsewhere_loses_no_line_and_is_the_one_to_tell(tmp_path: Path) -> None:
    for bad, written in ((None, 7), (5, 5)):
        folder = tmp_path / str(bad)
        folder.mkdir()
        with pytest.raises(RuntimeError, match="out of memory"):
            interrupted(folder, bad=bad)
        assert [line["step"] for line in lines(folder)] == list(range(written))


def test_clips_without_labels_have_no_accuracy(tmp_path: Path) -> None:
    with recorder(tmp_path) as into:
        into.begin_step()
        into.batch_is_here()
        one = torch.tensor(1.0)
        updated = Updated(one, {"a/ce": one}, {"a": torch.tensor([0, 1])}, one)
        into.step(0, 0, updated, torch.tensor([-1, -1]), {}, rate=0.1)
    (line,) = lines(tmp_path)
    assert "a/train_top1" not in line
    assert line["a/ce"] == 1.0


def test_speed_and_waiting_are_those_of_the_whole_block(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("videokd.training.step_numbers.time.perf_counter", lambda: now[0])
    steps = StepsOnDevice(torch.device("cpu"), Ranks(num_ranks=1), most_steps=8)
    for step in range(4):  # each waits one second and computes three
        steps.begin_step()
        now[0] += 1
        steps.batch_is_here()
        now[0] += 3
        steps.keep(StepNumbers(step, 0, 0.1, 6, {"loss/total": torch.tensor(1.0)}, {}))
    now[0] += 4  # the device has more to do
    read = steps.read()
    assert read is not None
    assert read.clips_per_second == pytest.approx(24 / 20)
    assert read.data_wait_share == pytest.approx(4 / 20)
    assert steps.read() is None


def test_steps_that_take_long_are_written_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("videokd.training.step_numbers.time.perf_counter", lambda: now[0])
    lengths = {}
    for seconds in (0.01, 0.15, 0.4, 5.0):
        steps = StepsOnDevice(torch.device("cpu"), Ranks(), most_steps=32)
        length, reads = 0, []
        for step in range(100):
            steps.begin_step()
            steps.batch_is_here()
            now[0] += seconds
            length += 1
            if steps.keep(StepNumbers(step, 0, 0.1, 6, {"loss/total": torch.tensor(1.0)}, {})):
                steps.read()
                reads.append(length)
                length = 0
        lengths[seconds] = reads[-1]
    assert lengths == {0.01: 32, 0.15: 6, 0.4: 2, 5.0: 1}
