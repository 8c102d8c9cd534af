"""Temporal shift against a plain loop."""

from __future__ import annotations

import pytest
import torch
from timm.models.resnet import BasicBlock, Bottleneck

from tests.small_networks import random_streams
from videokd.errors import ConfigError
from videokd.models.backbone import Network
from videokd.models.exits import Exits
from videokd.models.network_spec import NetworkSpec
from videokd.models.temporal_shift import ShiftedConv, shift


def spec(*streams, backbone="test_resnet", shifted=True):
    return NetworkSpec(streams, backbone, 5, 32, temporal_shift=shifted)


def awake(network):
    """timm starts residual branches at zero, so that what they shift would not be seen."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    return network


def shifted_by_a_loop(values, num_segments):
    result = torch.zeros_like(values)
    part = values.shape[1] // 8
    for number in range(len(values)):
        segment = number % num_segments
        for channel in range(values.shape[1]):
            source = number
            if channel < part:
                source = number + 1 if segment < num_segments - 1 else None
            elif channel < 2 * part:
                source = number - 1 if segment > 0 else None
            if source is not None:
                result[number, channel] = values[source, channel]
    return result


@pytest.mark.parametrize("num_segments", [1, 2, 3, 6])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_shift_equals_a_loop(num_segments, memory_format):
    values = torch.randn(6, 20, 3, 2).contiguous(memory_format=memory_format)
    found = shift(values, num_segments=num_segments)
    assert torch.equal(found, shifted_by_a_loop(values, num_segments))
    assert found.is_contiguous(memory_format=memory_format)


def test_the_gradient_of_a_shift_is_the_shift_back():
    values = torch.randn(4, 16, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: shift(v, num_segments=2), [values])


def test_a_network_equals_one_whose_blocks_shift_by_a_loop(monkeypatch):
    torch.manual_seed(0)
    plain, shifted = (awake(Network(spec("iframe", shifted=shifted))).eval() for shifted in (False, True))
    shifted.load_state_dict({
        name: plain.state_dict()[name.replace(".conv1.conv.", ".conv1.")] for name in shifted.state_dict()
    })  # fmt: skip
    for segments in (3, 4):  # the number of segments may change from call to call
        streams = random_streams("iframe", segments=segments)
        found = shifted(streams)
        with monkeypatch.context() as patch:
            for block in plain.modules():
                if isinstance(block, (BasicBlock, Bottleneck)):
                    conv = block.conv1.forward
                    patch.setattr(
                        block.conv1, "forward", lambda x, conv=conv, s=segments: conv(shifted_by_a_loop(x, s))
                    )
            torch.testing.assert_close(found, plain(streams), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found, plain(streams), atol=1e-4)


def test_clips_do_not_see_each_other_and_order_matters():
    torch.manual_seed(0)
    network = awake(Network(spec("motion"))).eval()
    streams = random_streams("motion")
    logits = network(streams)
    torch.testing.assert_close(network({"motion": streams["motion"][1:]}), logits[1:], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(network({"motion": streams["motion"].flip(1)}), logits, atol=1e-5)


@pytest.mark.parametrize(("backbone", "blocks"), [("test_resnet", 4), ("resnet18", 8), ("resnet50", 16)])
def test_every_residual_block_is_shifted(backbone, blocks):
    network = Network(spec("iframe", backbone=backbone))
    assert sum(isinstance(module, ShiftedConv) for module in network.modules()) == blocks


def test_exits_see_shifted_features():
    network = awake(Network(spec("motion"))).eval()
    streams = random_streams("motion")
    output = Exits(network).eval()(network, streams)
    torch.testing.assert_close(output.logits, network(streams))


def test_a_shifted_network_can_be_exported():
    network = awake(Network(spec("motion"))).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(network, (random_streams("motion"),), dynamic_shapes=({"motion": {0: batch}},))
    streams = random_streams("motion", batch=5)
    torch.testing.assert_close(exported.module()(streams), network(streams), rtol=1e-4, atol=1e-5)


def test_the_spec_survives_its_dictionary_and_old_ones_have_no_shift():
    assert NetworkSpec.from_dict(spec("motion").to_dict()) == spec("motion")
    old = spec("motion").to_dict()
    del old["temporal_shift"]
    assert NetworkSpec.from_dict(old) == spec("motion", shifted=False)


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_convnext"])
def test_backbones_without_residual_blocks_are_refused(backbone):
    with pytest.raises(
        ConfigError, match=f"temporal_shift needs the residual blocks of a timm ResNet, which {backbone}"
    ):
        Network(spec("iframe", backbone=backbone))
