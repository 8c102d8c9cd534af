"""Two processes train like one on the same batches."""

from __future__ import annotations

import importlib.util
import json
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.rank_processes import ended, start_ranks
from videokd.errors import ConfigError, VideoKDError
from videokd.runs import ranks as ranks_module
from videokd.runs.ranks import Ranks, exchange_after, join_ranks

SCRIPT = Path(__file__).with_name("two_ranks.py")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def load_script():
    spec = importlib.util.spec_from_file_location("two_ranks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What both ranks found, and where they wrote."""
    folder = tmp_path_factory.mktemp("two-ranks")
    for status, errors in ended(start_ranks([[str(SCRIPT), str(folder)]] * 2)):
        assert status == 0, errors
    return folder, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", ["plain", "accumulated", "alternating", "both", "unlabelled"])
def test_two_processes_give_the_weights_of_one(two, case):
    script = load_script()
    pieces, alternating = script.CASES[case]
    pieces = 1 if case == "unlabelled" else pieces  # this case compares the pieces of a batch with the whole too
    alone, logged = script.train(Ranks(), pieces=pieces, alternating=alternating, unlabelled=case == "unlabelled")
    start = script.new_students(seed=0).state_dict()
    ranks = [results[case] for results in two[1]]
    moved = 0
    for name, expected in alone.state_dict().items():
        torch.testing.assert_close(ranks[0]["state"][name], expected, rtol=1e-9, atol=1e-9)
        assert torch.equal(ranks[1]["state"][name], ranks[0]["state"][name])
        moved += not torch.allclose(expected.double(), start[name].double(), rtol=1e-3, atol=1e-5)
    assert moved > 40
    for expected, *found in zip(logged, *(rank["logged"] for rank in ranks), strict=True):
        assert all(values == pytest.approx(expected, rel=1e-4, abs=1e-6) for values in found)


def test_a_nan_on_one_rank_stops_all_and_is_named(two):
    messages = [results["stray"] for results in two[1]]
    assert messages[0] == messages[1]
    assert messages[0].startswith("step 7: a/kd is nan (the student sees motion). Lower the learning rate")


def test_a_flag_on_one_rank_is_seen_by_all(two):
    assert [results["any"] for results in two[1]] == [[True, False], [True, False]]


def test_all_ranks_see_the_flags_and_numbers_of_all(two):
    for results in two[1]:
        assert results["any_of"] == (True, False, True)
        assert results["gathered"] == [10, 11]
        assert results["agree"] == [True, False]
        assert results["total"] == [2, 10]
        assert results["in_turns"] == [f"item {number}" for number in range(5)]
        assert results["running_mean"].tolist() == [1.0, 1.0]
    assert Ranks().any_of(True, False) == (True, False)
    assert Ranks().gather(4) == [4]
    assert Ranks().agree("anything")
    assert Ranks().total([3, 4]) == [3, 4]


def test_ranks_and_steps_draw_different_numbers_and_always_the_same(two):
    drawn = [results["drawn"].tolist() for results in two[1]]
    assert drawn[0] != drawn[1]
    for rank, expected in enumerate(drawn):
        torch.rand(3)
        Ranks(rank, 2).seed_step(3, 5)
        assert torch.rand(4).tolist() == expected
    Ranks(0, 2).seed_step(3, 6)
    assert torch.rand(4).tolist() != drawn[0]


def test_only_the_first_rank_writes(two):
    folder, results = two
    assert results[1]["resumes"] is False
    assert [json.loads(line)["rank"] for line in (folder / "run" / "log.jsonl").read_text().splitlines()] == [0.0]
    assert len(list((folder / "run").glob("events.*"))) == 1
    assert (folder / "run" / "config.yaml").is_file()


def test_one_process_needs_no_group(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for world_size in (None, "1"):
        if world_size:
            monkeypatch.setenv("WORLD_SIZE", world_size)
        with join_ranks(torch.device("cpu")) as ranks:
            assert ranks == Ranks()
            assert ranks.is_first
            ranks.barrier()
        assert not torch.distributed.is_initialized()
    students = load_script().new_students(seed=0)
    assert Ranks().wrap(students) == {None: students}
    assert Ranks().wrap(students, ("a", "b")) == {"a": students, "b": students}
    with exchange_after(students, last=False):
        pass


def test_wrong_environments_are_refused(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def join(device="cpu"):
        with join_ranks(torch.device(device)):
            pass

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"the environment has .*torchrun --nproc-per-node"):
        join()
    monkeypatch.setenv("RANK", "first")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match=r"the environment has .*first"):
        join()
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match=r"the environment has .*accepted: all of RANK, .*MASTER_PORT, MASTER_ADDR"):
        join()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "no number")
    with pytest.raises(ConfigError, match=r"the environment has .*no number"):
        join()
    monkeypatch.setenv("MASTER_PORT", "29555")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ConfigError, match="RANK is 2"):
        join()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"LOCAL_RANK is 1, but this machine has 1 CUDA devices"):
        join("cuda")


@pytest.fixture
def place(monkeypatch):
    """A socket at the place where two processes, of which this is one, are to meet."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        values = ("0", "2", "0", "127.0.0.1", str(taken.getsockname()[1]))
        for name, value in zip(VARIABLES, values, strict=True):
            monkeypatch.setenv(name, value)
        yield taken


def test_a_port_that_is_taken_is_refused(place):
    place.listen()
    with (
        pytest.raises(
            ConfigError, match=r"127\.0\.0\.1:\d+ is taken by another program or run \(accepted: a free port"
        ),
        join_ranks(torch.device("cpu")),
    ):
        pass


@pytest.mark.parametrize("rank", ["0", "1"])
def test_who_waits_for_a_process_that_never_comes_says_so_and_ends(rank, place, monkeypatch, capfd):
    place.close()
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(ranks_module, "_JOIN_TIMEOUT", timedelta(seconds=3))
    monkeypatch.setattr(ranks_module, "_SILENT_SECONDS", 0.5)
    pattern = rf"process {rank} of 2: not all processes came to 127\.0\.0\.1:\d+ within"
    with pytest.raises(VideoKDError, match=pattern), join_ranks(torch.device("cpu")):
        pass
    assert f"process {rank} of 2 waits for the others at 127.0.0.1:" in capfd.readouterr().err


def test_a_batch_that_cannot_be_shared_equally_is_refused():
    assert Ranks(1, 4).share(32) == 8
    for batch_size in (0, 30):
        with pytest.raises(
            ConfigError, match=rf"batch_size is {batch_size} on 4 processes \(accepted: a multiple of 4"
        ):
            Ranks(1, 4).share(batch_size)


@pytest.mark.gpu
def test_batch_norm_is_synchronised_on_cuda_and_keeps_activations(monkeypatch):
    from timm.layers import BatchNormAct2d

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    device = torch.device("cuda", 0)
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=0,
        world_size=1,
        device_id=device,
    )
    try:
        students = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4), nn.BatchNorm2d(4)).cuda()
        parameters = list(students.parameters())
        # Two ranks in name: the wrapper asks the group, which has one
        ranks = Ranks(0, 2, device)
        wrapped = ranks.wrap(students)[None]
        assert sum(isinstance(module, nn.SyncBatchNorm) for module in students.modules()) == 2
        assert all(a is b for a, b in zip(students.parameters(), parameters, strict=True))
        wrapped(torch.randn(2, 3, 4, 4, device="cuda")).sum().backward()
        assert (students[1](torch.randn(2, 4, 4, 4, device="cuda")) >= 0).all()
        assert ranks.any_of(True, False) == (True, False)
        assert ranks.mean({"a": torch.tensor(4.0, device="cuda")})["a"].item() == 2.0
        ranks.copy_buffers(students)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["plain", "both"])
def test_wrapped_students_on_cuda_take_the_steps_of_unwrapped_ones(case):
    """One process in a group: SyncBatchNorm, a wrapper per student, accumulation and exits with NCCL."""
    script = load_script()
    pieces, alternating = script.CASES[case]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    device = torch.device("cuda", 0)
    alone, _ = script.train(Ranks(device=device), pieces=pieces, alternating=alternating)
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1, device_id=device
    )
    try:
        wrapped, _ = script.train(GroupOfOne(device=device), pieces=pieces, alternating=alternating)
    finally:
        torch.distributed.destroy_process_group()
    for name, expected in alone.state_dict().items():
        torch.testing.assert_close(wrapped.state_dict()[name], expected, rtol=1e-9, atol=1e-9)


class GroupOfOne(Ranks):
    """Wraps as for several ranks."""

    def wrap(self, students, rounds=(None,)):
        return Ranks(0, 2, self.device).wrap(students, rounds)
