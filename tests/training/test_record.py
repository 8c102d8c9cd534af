"""What a run records."""

from __future__ import annotations

import json
import math
import mmap

import numpy as np
import pytest
import torch

from videokd.errors import DataError, VideoKDError
from videokd.training.record import RunLog, check_finite, memory_gib


def test_a_loss_that_is_not_finite_is_refused():
    check_finite({"a/ce": 0.5, "a/kd": 2.0}, step=0)
    check_finite({}, step=0)
    for bad in (math.nan, math.inf):
        with pytest.raises(VideoKDError, match=rf"step 12: a/kd is {bad}\. Lower the learning rate"):
            check_finite({"a/ce": 0.5, "a/kd": bad}, step=12)


def test_the_error_names_the_streams_of_the_student():
    parts = {"a/ce": 0.5, "b/exit1/kd": math.nan}
    streams = {"a": ("iframe",), "b": ("motion", "residual")}
    with pytest.raises(VideoKDError, match=r"step 3: b/exit1/kd is nan \(the student sees motion, residual\)\. Lower"):
        check_finite(parts, step=3, streams=streams)
    with pytest.raises(VideoKDError, match=r"step 3: loss/total is inf\. Lower"):
        check_finite({"loss/total": math.inf}, step=3, streams=streams)


def test_memory_is_that_of_this_process():
    before = memory_gib(torch.device("cpu"))["resident_gib"]
    held = np.frombuffer(mmap.mmap(-1, 2**27), np.uint8)  # 1/8 GiB that is surely new: malloc may give memory of before
    held[:] = 1
    grown = memory_gib(torch.device("cpu"))["resident_gib"] - before
    assert held.nbytes / 2**30 * 0.9 < grown < 0.5


@pytest.mark.gpu
def test_peak_memory_on_cuda():
    held = torch.ones(2**25, device="cuda")
    assert memory_gib(torch.device("cuda"))["cuda_peak_gib"] >= held.nbytes / 2**30


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_each_record_is_one_line_written_at_once(tmp_path):
    with RunLog(tmp_path) as log:
        log.record(0, 0, {"a/ce": 1.5, "top1": math.nan})
        assert lines(tmp_path) == [{"step": 0, "epoch": 0, "a/ce": 1.5, "top1": None}]
        log.record(1, 0, {"a/ce": 1.0})
    assert [line["step"] for line in lines(tmp_path)] == [0, 1]


def test_tensorboard_reads_the_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path) as log:
        log.record(3, 0, {"a/ce": 1.5, "lr": 0.25})
        log.record(4, 0, {"a/ce": 2.5, "gradient_norm": math.inf})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("a/ce")] == [(3, 1.5), (4, 2.5)]
    assert [(event.step, event.value) for event in events.Scalars("lr")] == [(3, 0.25)]
    assert events.Scalars("gradient_norm")[0].value == math.inf


def test_a_resumed_log_forgets_what_came_after_the_checkpoint(tmp_path):
    with RunLog(tmp_path) as log:
        for step in range(5):
            log.record(step, 0, {"a/ce": 1.0})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 1, "epo')  # cut off by a crash
    with RunLog(tmp_path, resume_step=2) as log:
        log.record(3, 1, {"a/ce": 2.0})
    assert [(line["step"], line["a/ce"]) for line in lines(tmp_path)] == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0)]


def test_a_new_log_starts_anew(tmp_path):
    for _ in range(2):
        with RunLog(tmp_path) as log:
            log.record(0, 0, {"a/ce": 1.0})
    assert len(lines(tmp_path)) == 1


def test_resuming_without_a_log_starts_one(tmp_path):
    with RunLog(tmp_path, resume_step=4) as log:
        log.record(5, 0, {"a/ce": 1.0})
    assert len(lines(tmp_path)) == 1


def test_a_full_disk_is_told_in_one_line(tiny_disk):
    def record_much(log):
        for step in range(100_000):
            log.record(step, 0, {"a/ce": 1.0})

    with RunLog(tiny_disk / "run") as log:
        (tiny_disk / "filler").write_bytes(b"\0" * 900_000)
        with pytest.raises(DataError, match=r"log\.jsonl could not be written \(No space left on device\)"):
            record_much(log)


def test_a_log_that_cannot_be_opened(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(DataError, match="could not be written"):
        RunLog(tmp_path / "run")
