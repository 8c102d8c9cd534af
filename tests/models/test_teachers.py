"""Teachers never change."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import StdConv2d
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.small_networks import random_streams, spec
from videokd.errors import ConfigError
from videokd.models.backbone import Network, channels_last
from videokd.models.teachers import Teachers, keep_weights_in
from videokd.types import Batch


def batch(*names, device="cpu"):
    return Batch(random_streams(*names), torch.tensor([0, 1]), ("a", "b")).to(device)


def test_buffers_are_bit_identical_after_train_on_the_whole():
    torch.manual_seed(0)
    teachers = Teachers({"appearance": Network(spec("iframe")), "motion": Network(spec("motion"))})
    whole = nn.ModuleDict({"teachers": teachers, "student": Network(spec("motion"))})
    before = {name: values.clone() for name, values in teachers.state_dict().items()}
    whole.train()
    assert whole["student"].training
    assert not any(module.training for module in teachers.modules())
    first, again = (teachers(batch("iframe", "motion")) for _ in range(2))
    assert list(first) == ["appearance", "motion"]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(values, before[name]) for name, values in teachers.state_dict().items())


def test_no_gradient_reaches_them():
    teachers = Teachers({"iframe": Network(spec("iframe"))})
    assert not any(parameter.requires_grad for parameter in teachers.parameters())
    teachers.requires_grad_(True)
    assert not teachers(batch("iframe"))["iframe"].requires_grad


def test_their_target_can_be_saved_for_backward():
    logits = Teachers({"iframe": Network(spec("iframe"))})(batch("iframe"))["iframe"]
    student = torch.ones(2, 5, requires_grad=True)
    (student * logits).sum().backward()
    assert torch.equal(student.grad, logits)


def test_streams_are_the_union():
    teachers = Teachers({"a": Network(spec("motion")), "b": Network(spec("iframe", "motion"))})
    assert teachers.streams == ("motion", "iframe")


def test_wrong_teachers_are_refused():
    with pytest.raises(ConfigError, match="teachers: none are given"):
        Teachers({})
    with pytest.raises(ConfigError, match="needs motion, but was given iframe"):
        Teachers({"motion": Network(spec("motion"))})(batch("iframe"))


class CastWeights(TorchDispatchMode):
    """Counts the weights that are converted."""

    def __init__(self, network):
        super().__init__()
        self.count, self._weights = 0, {parameter.data_ptr() for parameter in network.parameters()}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._to_copy.default and args[0].data_ptr() in self._weights
        return function(*args, **(kwargs or {}))


BACKBONES = {
    "test_resnet": ("iframe", 32),
    "test_efficientnet": ("motion", 32),
    "tf_efficientnet_lite0": ("iframe", 64),
    "mobilenetv3_small_100": ("iframe", 64),
    "test_convnext": ("iframe", 64),
    "test_vit": ("iframe", 160),
    "video:r2plus1d_18": ("motion", 32),
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_weights_in_the_format_of_autocast_change_no_prediction(backbone):
    stream, size = BACKBONES[backbone]
    torch.manual_seed(0)
    network = channels_last(Teachers({stream: Network(spec(stream, backbone=backbone, size=size))}).networks[stream])
    for module in network.modules():  # as if it had been trained
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    kept = keep_weights_in(copy.deepcopy(network), torch.bfloat16)
    streams = random_streams(stream, size=size)
    found, casts = [], []
    for each in (network, kept):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), CastWeights(each) as mode:
            found.append(each(streams))
        casts.append(mode.count)
    assert found[1].dtype == torch.float32
    spread = found[0].std().item()
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3 * spread)
    assert casts[0] > 5
    assert casts[1] == 0
    formats = {type(module): p.dtype for module in kept.modules() for p in module.parameters(recurse=False)}
    norms = [dtype for kind, dtype in formats.items() if "Norm" in kind.__name__]
    assert norms
    assert {*norms} == {torch.float32}
    for weights, before in zip(kept.parameters(), network.parameters(), strict=True):
        assert weights.stride() == before.stride()


def test_layers_that_do_more_with_their_weights_keep_them():
    network = nn.Sequential(nn.Linear(4, 4), StdConv2d(3, 4, 3), nn.MultiheadAttention(4, 2), nn.Conv2d(3, 4, 3))
    keep_weights_in(network, torch.float16)
    formats = [{p.dtype for p in module.parameters()} for module in network]
    assert formats == [{torch.float16}, {torch.float32}, {torch.float32}, {torch.float16}]
    keep_weights_in(network, torch.float32)
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_on_cuda_they_are_close_to_float32(dtype):
    torch.manual_seed(0)
    teachers = Teachers({"iframe": Network(spec("iframe"))}).cuda()
    given = batch("iframe", device="cuda")
    exact = teachers(given)["iframe"]
    with torch.autocast("cuda", dtype=dtype):
        found = teachers(given)["iframe"]
        kept = keep_weights_in(teachers, dtype)(given)["iframe"]
    assert found.dtype == kept.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.05)
    torch.testing.assert_close(kept, found, rtol=1e-3, atol=1e-3)
