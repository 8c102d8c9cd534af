"""What surrounds a training loop."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from videokd.errors import ConfigError, DataError, VideoKDError
from videokd.training.checkpoint import save_checkpoint
from videokd.training.session import (
    Precision,
    RunFolder,
    RunLog,
    StopSignal,
    finite_values,
    memory_gib,
    pick_device,
    seed_everything,
)


def test_a_seed_repeats_every_generator():
    draws = []
    for _ in range(2):
        seed_everything(11)
        draws.append((random.random(), np.random.random(), torch.rand(1).item()))
    assert draws[0] == draws[1]
    with pytest.raises(ConfigError, match="seed is -1"):
        seed_everything(-1)


def test_devices(monkeypatch):
    assert pick_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="device is cuda, but PyTorch finds no CUDA device"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"
    with pytest.raises(ConfigError, match="device is 'tpu'"):
        pick_device("tpu")


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_on_the_cpu(name, dtype):
    precision = Precision(name, torch.device("cpu"))
    layer = nn.Linear(2, 2)
    with precision.autocast():
        assert layer(torch.ones(1, 2)).dtype == dtype
    scaler = precision.scaler()
    assert not scaler.is_enabled()
    loss = layer(torch.ones(1, 2)).sum()
    assert scaler.scale(loss) is loss


def test_precision_refuses_what_does_not_work():
    with pytest.raises(ConfigError, match=r"precision is fp16 on cpu .*--precision bf16"):
        Precision("fp16", torch.device("cpu"))
    with pytest.raises(ConfigError, match="precision is 'int8'"):
        Precision("int8", torch.device("cpu"))


@pytest.mark.gpu
def test_one_scaler_steps_several_optimizers_on_cuda():
    precision = Precision("fp16", torch.device("cuda"))
    scaler = precision.scaler()
    layers = [nn.Linear(8, 8).cuda() for _ in range(2)]
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in layers]
    before = [layer.weight.detach().clone() for layer in layers]
    for _ in range(12):  # the first scales may overflow, and skip a step
        with precision.autocast():
            outputs = [layer(torch.ones(4, 8, device="cuda")) for layer in layers]
        assert outputs[0].dtype == torch.float16
        scaler.scale(sum(values.float().square().mean() for values in outputs)).backward()
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            optimizer.zero_grad()
        scaler.update()
    for layer, old in zip(layers, before, strict=True):
        assert torch.isfinite(layer.weight).all()
        assert not torch.equal(layer.weight, old)


def test_finite_values():
    assert finite_values({"a/ce": torch.tensor(0.5), "a/kd": torch.tensor(2.0)}, step=0) == {"a/ce": 0.5, "a/kd": 2.0}
    assert finite_values({}, step=0) == {}
    for bad in (math.nan, math.inf):
        with pytest.raises(VideoKDError, match=rf"step 12: a/kd is {bad}\. Lower the learning rate"):
            finite_values({"a/ce": torch.tensor(0.5), "a/kd": torch.tensor(bad)}, step=12)


def test_finite_values_names_the_streams_of_the_student():
    parts = {"a/ce": torch.tensor(0.5), "b/exit1/kd": torch.tensor(math.nan)}
    streams = {"a": ("iframe",), "b": ("motion", "residual")}
    with pytest.raises(VideoKDError, match=r"step 3: b/exit1/kd is nan \(the student sees motion, residual\)\. Lower"):
        finite_values(parts, step=3, streams=streams)
    with pytest.raises(VideoKDError, match=r"step 3: loss/total is inf\. Lower"):
        finite_values({"loss/total": torch.tensor(math.inf)}, step=3, streams=streams)


def test_what_comes_beside_the_parts_may_be_anything():
    parts, beside = {"a/ce": torch.tensor(0.5)}, {"gradient_norm": torch.tensor(math.inf), "a/ce": torch.tensor(0.5)}
    assert finite_values(parts, step=0, beside=beside) == {"gradient_norm": math.inf, "a/ce": 0.5}
    with pytest.raises(VideoKDError, match="step 0: a/ce is nan"):
        finite_values({"a/ce": torch.tensor(math.nan)}, step=0, beside=beside)


def test_memory_is_that_of_this_process():
    before = memory_gib(torch.device("cpu"))["resident_gib"]
    held = np.ones(2**27 // 8)  # 1/8 GiB, touched
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


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_stops(kind):
    before = signal.getsignal(kind)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), kind)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(kind)
    assert signal.getsignal(kind) is before


def test_in_another_thread_signals_are_left_alone():
    found = []

    def run():
        with StopSignal() as stop:
            found.append(stop.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]
