"""Checkpoints: whole or not at all, and exact enough to resume."""

from __future__ import annotations

import errno
import os
import pickle
import re

import pytest
import torch
from torch import nn

from videokd.errors import DataError, VideoKDError
from videokd.runs.checkpoint import load_checkpoint, save_checkpoint, strict_load
from videokd.runs.ranks import Ranks
from videokd.training.schedule import EMA, Schedule, build_optimizer, set_learning_rate


def test_a_payload_comes_back(tmp_path):
    payload = {"step": 3, "model": {"weight": torch.arange(3)}, "names": ["a", "b"], "best": None}
    save_checkpoint(tmp_path / "checkpoint.pt", payload)
    found = load_checkpoint(tmp_path / "checkpoint.pt")
    assert list(found) == list(payload)
    assert found["step"] == 3
    assert torch.equal(found["model"]["weight"], torch.arange(3))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def full_disk(*_args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(VideoKDError, match=r"checkpoint\.pt could not be written .*No space left.*untouched"):
            save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_limit_on_file_size_leaves_the_old_one(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    too_large = re.escape(os.strerror(errno.EFBIG))
    try:
        with pytest.raises(
            VideoKDError, match=rf"checkpoint\.pt could not be written \({too_large}\); an older one is"
        ):
            save_checkpoint(path, {"weights": torch.zeros(1 << 20)})
        with pytest.raises(VideoKDError, match=rf"new\.pt could not be written \({too_large}\)\. Check free space"):
            save_checkpoint(tmp_path / "new.pt", {"weights": torch.zeros(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(VideoKDError, match=r"file/checkpoint\.pt could not be written"):
        save_checkpoint(tmp_path / "file" / "checkpoint.pt", {})


def test_missing_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(DataError, match=r"checkpoint\.pt is missing"):
        load_checkpoint(path)
    save_checkpoint(path, {"weights": torch.randn(100)})
    content = path.read_bytes()
    middle = len(content) // 2
    for damaged in (
        b"",
        content[:10],
        content[:middle],
        content[:-1],
        b"not a checkpoint\n" * 9,
        pickle.dumps(object(), protocol=2),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"checkpoint\.pt is damaged or not a checkpoint") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)
    for foreign in ({"state_dict": {}}, [1, 2], {"format": "videokd-checkpoint", "version": 99}):
        torch.save(foreign, path)
        with pytest.raises(DataError, match=r"checkpoint\.pt is not a checkpoint of videokd"):
            load_checkpoint(path)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_changed_numbers_are_noticed(tmp_path):
    weight = torch.rand(100)
    save_checkpoint(path := tmp_path / "best.pt", {"weight": weight})
    content = bytearray(path.read_bytes())
    content[content.index(weight.numpy().tobytes()) + 42] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="the checksum of .* is wrong"):
        load_checkpoint(path)


def test_no_code_from_the_file_runs(tmp_path):
    trace = tmp_path / "made"
    torch.save({"format": "videokd-checkpoint", "version": 1, "payload": Evil(trace)}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match="damaged or not a checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not trace.exists()


def test_another_architecture_is_named():
    model = nn.Linear(2, 2)
    strict_load(model, nn.Linear(2, 2).state_dict(), path="a.pt")
    with pytest.raises(DataError, match=r"a\.pt is of another architecture: weight is \[2, 3\] instead of \[2, 2\]"):
        strict_load(model, nn.Linear(3, 2).state_dict(), path="a.pt")
    with pytest.raises(DataError, match=r"bias is missing instead of \[2\]"):
        strict_load(model, nn.Linear(2, 2, bias=False).state_dict(), path="a.pt")
    with pytest.raises(DataError, match=r"bias is \[2\] instead of missing"):
        strict_load(nn.Linear(2, 2, bias=False), model.state_dict(), path="a.pt")


def train(folder, *, steps, resume=False, total=6):
    """A small run with everything that has a state: dropout, BatchNorm, momentum, schedule, EMA."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    optimizer = build_optimizer(
        [{"params": list(model.parameters()), "weight_decay": 1e-3}], name="adam", learning_rate=0.1
    )
    ema, start = EMA(model, decay=0.9), 0
    if resume:
        state = load_checkpoint(folder / "checkpoint.pt")
        strict_load(model, state["model"], path=folder)
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        start = state["step"]
    for step in range(start, start + steps):
        Ranks().seed_step(3, step)
        set_learning_rate(optimizer, Schedule(total, 0.1, warmup_steps=2).rate(step))
        optimizer.zero_grad()
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
        ema.update(model)
    payload = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema.state_dict()}
    save_checkpoint(folder / "checkpoint.pt", payload | {"step": start + steps})
    return model, ema


def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(tmp_path):
    model, ema = train(tmp_path, steps=6)
    train(tmp_path, steps=2)
    torch.rand(7)
    resumed_model, resumed_ema = train(tmp_path, steps=4, resume=True)
    for one, other in [(model.state_dict(), resumed_model.state_dict()), (ema.average, resumed_ema.average)]:
        assert all(torch.equal(values, other[name]) for name, values in one.items())
