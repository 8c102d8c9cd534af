"""What surrounds a training loop."""

from __future__ import annotations

import os
import random
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from videokd import stopping
from videokd.errors import ConfigError
from videokd.runs.device import Precision, pick_device, seed_everything
from videokd.stopping import StopSignal


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


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_asks_to_stop_also_where_it_comes_twice(kind, monkeypatch):
    """`timeout` and torchrun send it to a process and to its group, which has the process in it."""
    before = signal.getsignal(kind)
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), kind)
        assert stop.requested
        signal.raise_signal(kind)
    assert not left
    assert signal.getsignal(kind) is before


@pytest.mark.parametrize(("kind", "leaves"), [(signal.SIGINT, [130]), (signal.SIGTERM, [])])
@pytest.mark.parametrize("resumes", [False, True])
def test_a_later_second_ctrl_c_stops_at_once(kind, leaves, resumes, monkeypatch, capfd):
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    now = iter([100.0, 103.0])
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with StopSignal(resumes=resumes):
        signal.raise_signal(kind)
        signal.raise_signal(kind)
    assert left == leaves
    promise = "; the same command resumes from the last checkpoint" if resumes else ""  # what resumes nothing says so
    line = f"videokd: stopped at once{promise}.\n"
    assert capfd.readouterr().err == (line if leaves else "")


def test_under_nohup_a_hangup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_signals_are_left_alone():
    found = []

    def run():
        with StopSignal() as stop:
            found.append(stop.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]
