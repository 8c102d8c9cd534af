from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videokd.evaluation import protocol
from videokd.evaluation.cost import macs, parameters, time_ms
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, build_students
from videokd.runs.device import Precision
from videokd.types import Sample


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


def vit_macs(side: int, patch: int, width: int, depth: int, classes: int) -> int:
    """Counted by hand from the paper (Dosovitskiy et al. 2021): projections, attention and MLP of each block."""
    tokens = (side // patch) ** 2
    embedding = tokens * width * 3 * patch * patch
    tokens += 1  # the class token
    linear = tokens * width * (3 * width + width + 4 * width + 4 * width)
    attention = 2 * tokens * tokens * width
    return embedding + depth * (linear + attention) + width * classes


def test_attention_counts() -> None:
    network = timm.create_model("deit_tiny_patch16_224", pretrained=False)
    assert macs(network, torch.zeros(1, 3, 224, 224)) == vit_macs(224, 16, 192, 12, 1000)
    assert macs(network, torch.zeros(2, 3, 224, 224)) == 2 * vit_macs(224, 16, 192, 12, 1000)


def test_windows_of_attention_count() -> None:
    """A Swin stage by hand: its windows of 7 × 7 attend within themselves."""
    network = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False).layers[0].blocks[0]
    tokens, width = 56 * 56, 96
    assert macs(network, torch.zeros(1, 56, 56, width)) == tokens * width * 12 * width + 2 * tokens * 49 * width


def test_a_network_without_attention_costs_what_its_convolutions_do() -> None:
    network = timm.create_model("convnext_atto", pretrained=False)
    side, total = 56, 40 * 3 * 16 * 56 * 56
    for depth, width, before in ((2, 40, 40), (2, 80, 40), (6, 160, 80), (2, 320, 160)):
        if width != before:
            side //= 2
            total += width * before * 4 * side * side
        total += depth * side * side * width * (49 + 8 * width)  # 7 × 7 within each channel, then the MLP
    assert macs(network, torch.zeros(1, 3, 224, 224)) == total + 320 * 1000


class Called(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*values)


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (lambda q: F.scaled_dot_product_attention(q, q, q), [(2, 3, 10, 8)], 2 * 2 * 3 * 10 * 10 * 8),
        (lambda q, k: F.scaled_dot_product_attention(q, k, k), [(1, 2, 5, 4), (1, 2, 9, 4)], 2 * 2 * 5 * 9 * 4),
        (lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), [(1, 1, 6, 4)], 2 * 6 * 6 * 4),
        (torch.matmul, [(5, 4), (4,)], 20),
        (torch.matmul, [(4,), (4,)], 4),
        (torch.matmul, [(2, 3, 5, 4), (4, 6)], 2 * 3 * 5 * 4 * 6),
        (lambda a, b: torch.einsum("bij,bkj->bik", a, b), [(2, 5, 4), (2, 6, 4)], 2 * 5 * 6 * 4),
        (lambda a, b: torch.addmv(torch.zeros(5), a, b), [(5, 4), (4,)], 20),
        (lambda a, b: torch.addbmm(torch.zeros(5, 6), a, b), [(2, 5, 4), (2, 4, 6)], 2 * 5 * 4 * 6),
        (lambda a: F.layer_norm(F.gelu(a), (8,)), [(2, 10, 8)], 0),
    ],
)
def test_products_by_hand(function: Callable[..., Tensor], shapes: list[tuple[int, ...]], expected: int) -> None:
    assert macs(Called(function), tuple(map(torch.zeros, shapes))) == expected


def test_fused_layers_count_as_their_parts() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert macs(layer, torch.zeros(2, 10, 8)) == 20 * (8 * 24 + 8 * 8 + 2 * 8 * 16) + 2 * 2 * 10 * 10 * 8
    assert torch.backends.mha.get_fastpath_enabled()


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


@dataclass(frozen=True)
class _Videos:
    """What is timed of a dataset: two videos of noise, in two views of three segments."""

    streams: tuple[str, ...] = ("motion",)
    input_size: int = 32
    num_views: int = 2

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> Sample:
        return Sample({"motion": np.zeros((6, 2, 32, 32), np.uint8)}, 0, f"v{number}")


def test_the_time_of_a_network_includes_the_copy_of_its_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on `meta` have no values; this is about when they get there."""
    network = NetworkSpec(("motion",), "test_resnet", 3, 32)
    students = (
        build_students({"a": network, "b": network}, PredictionSpec(("x", "y", "z"), 3), seed=0).eval().to("meta")
    )
    timed, copied = [False], list[bool]()
    plain = Tensor.to

    def timing(work: Callable[[], object], **options: Any) -> dict[str, float]:
        timed.append(True)
        work()
        timed.pop()
        return {"p50": 1.0}

    def copying(values: Tensor, *given: Any, **options: Any) -> Tensor:
        found = plain(values, *given, **options)
        if (values.device.type, found.device.type) == ("cpu", "meta"):
            copied.append(timed[-1])
        return found

    monkeypatch.setattr(protocol, "time_ms", timing)
    monkeypatch.setattr(Tensor, "to", copying)
    precision = Precision("fp32", torch.device("meta"))
    monkeypatch.setattr(Precision, "autocast", lambda self: nullcontext())  # which meta has none of
    found = protocol.latency_of(students, ("a", "fused"), _Videos(), precision, videos=2)  # type: ignore[arg-type]
    assert copied == [True] * 6  # once for the warm-up and each video, also where two networks see the stream
    assert found["fused"].total == 2.0
