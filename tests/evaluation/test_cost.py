from __future__ import annotations

import time

import pytest
import timm
import torch
from torch import nn

from videokd.evaluation.cost import macs, parameters, time_ms


def resnet18_macs(side: int, classes: int) -> int:
    """Counted by hand from the architecture's table (He et al. 2016, table 1), without looking at any module."""
    side //= 2
    total = 64 * 3 * 7 * 7 * side * side
    side, channels = side // 2, 64  # after the max pooling
    for width in (64, 128, 256, 512):
        for block in range(2):
            first = width != channels and block == 0
            if first:
                side //= 2
                total += width * channels * side * side  # the 1 × 1 shortcut
            total += width * (channels if first else width) * 9 * side * side + width * width * 9 * side * side
        channels = width
    return total + 512 * classes


def test_resnet18_costs_what_the_papers_say() -> None:
    network = timm.create_model("resnet18", pretrained=False)
    counted = macs(network, torch.zeros(1, 3, 224, 224))
    assert counted == resnet18_macs(224, 1000)
    assert counted == 1_814_073_344
    assert parameters(network) == 11_689_512


def test_macs_grow_with_the_batch_and_take_several_arguments() -> None:
    assert macs(nn.Linear(3, 2), torch.zeros(10, 3)) == 2 * macs(nn.Linear(3, 2), torch.zeros(5, 3)) == 60
    assert macs(nn.Bilinear(3, 4, 2), (torch.zeros(5, 3), torch.zeros(5, 4))) >= 0


def test_counting_leaves_modes_and_buffers_alone() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
    network[0].eval()
    macs(network, torch.randn(5, 3))
    assert [part.training for part in network] == [False, True, True]
    assert network.training
    assert int(network[0].num_batches_tracked) == 0


def test_shared_parameters_count_once() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    second.weight.requires_grad_(False)
    assert parameters(nn.Sequential(first, second)) == 16


def test_times_are_those_of_the_repeats_alone() -> None:
    calls = []

    def work() -> None:
        calls.append(0)
        time.sleep(0.05 if len(calls) <= 2 else 0.005)

    times = time_ms(work, repeats=5, warmup=2)
    assert len(calls) == 7
    assert times["repeats"] == 5
    assert 5 <= times["p50"] <= times["p95"]
    assert times["p50"] < 40


def test_a_cuda_device_is_synchronised_around_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: order.append("wait"))
    time_ms(lambda: order.append("work"), repeats=2, warmup=1, device="cuda:0")
    assert order == ["wait", "work", "wait"] * 3
    order.clear()
    time_ms(lambda: order.append("work"), repeats=2, warmup=0, device="cpu")
    assert order == ["work"] * 2


@pytest.mark.parametrize(("repeats", "warmup"), [(0, 0), (1, -1)])
def test_time_arguments_are_checked(repeats: int, warmup: int) -> None:
    with pytest.raises(ValueError, match=rf"repeats is {repeats} and warmup {warmup} \(accepted: repeats ≥ 1"):
        time_ms(lambda: None, repeats=repeats, warmup=warmup)
