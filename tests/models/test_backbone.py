"""Networks: input normalisation, stacking, consensus, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.small_networks import random_streams, spec
from videokd.errors import ConfigError
from videokd.models.backbone import Network, channels_last, module_dict
from videokd.models.network_spec import NetworkSpec, default_backbone
from videokd.types import STREAMS

BACKBONE = "test_resnet"


@pytest.mark.parametrize("name", list(STREAMS))
def test_input_equals_numpy(name):
    network = Network(spec(name)).eval()
    streams = random_streams(name)
    values, num_segments = network.prepare(streams)
    row = STREAMS[name]
    mean, std = (np.array(values_)[:, None, None] for values_ in (row.mean, row.std))
    expected = (streams[name].double().numpy() / 255 - mean) / std
    if row.input_batch_norm:  # untrained, in evaluation mode: mean 0, variance 1
        expected /= np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(values.detach(), expected.reshape(6, *expected.shape[2:]), atol=2e-6)
    assert num_segments == 3


def test_input_batch_norm_normalises_motion_over_the_batch():
    network = Network(spec("motion")).train()
    values, _ = network.prepare(random_streams("motion"))
    torch.testing.assert_close(values.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(dim=(0, 2, 3)), torch.ones(2), atol=1e-3, rtol=0)


def test_streams_are_stacked_in_the_order_of_the_spec():
    network = Network(spec("motion", "iframe", "residual")).eval()
    streams = random_streams("iframe", "residual", "motion")
    values, _ = network.prepare(streams)
    assert values.shape == (6, 8, 32, 32)
    alone, _ = Network(spec("iframe")).eval().prepare(streams)
    assert torch.equal(values[:, 2:5], alone)


def test_logits_are_the_mean_over_segments():
    network = Network(spec("iframe")).eval()
    streams = random_streams("iframe", segments=4)
    one_by_one = [network({"iframe": streams["iframe"][:, s : s + 1]}) for s in range(4)]
    torch.testing.assert_close(network(streams), torch.stack(one_by_one).mean(dim=0), rtol=1e-4, atol=1e-5)


def test_logits_under_autocast_are_float32():
    network = Network(spec("iframe")).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(random_streams("iframe")).dtype == torch.float32


def test_channels_last_changes_nothing():
    network = Network(spec("residual")).eval()
    streams = random_streams("residual")
    expected = network(streams)
    torch.testing.assert_close(network.to(memory_format=torch.channels_last)(streams), expected, rtol=1e-4, atol=1e-5)


def test_a_network_can_be_exported_for_any_batch():
    network = Network(spec("motion")).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(network, (random_streams("motion"),), dynamic_shapes=({"motion": {0: batch}},))
    streams = random_streams("motion", batch=5)
    torch.testing.assert_close(exported.module()(streams), network(streams), rtol=1e-4, atol=1e-5)


def test_constants_of_the_streams_are_not_in_the_state():
    names = Network(spec("iframe", "motion")).state_dict()
    assert [name for name in names if name.startswith("inputs.")] == [
        f"inputs.motion.norm.{name}"
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_convnext", "test_vit"])
def test_other_backbones_fit(backbone):
    network = Network(spec("motion", backbone=backbone, size=64)).eval()
    assert network(random_streams("motion", size=64)).shape == (2, 5)


def test_stages_agree_with_the_forward_pass():
    network = Network(spec("iframe")).eval()
    streams = random_streams("iframe")
    logits, features, deepest = network.forward_stages(streams, stages=[1, 2])
    torch.testing.assert_close(logits, network(streams))
    assert [list(f.shape) for f in features] == [[6, 32, 8, 8], [6, 48, 4, 4]]
    assert deepest.shape == (6, 96)


def test_default_backbone_is_a_column_of_the_table():
    assert default_backbone(["residual"]) == STREAMS["residual"].default_backbone
    assert default_backbone(["motion", "residual"]) == "resnet18"
    with pytest.raises(ConfigError, match="flow"):
        default_backbone(["flow"])


def groups_by_name(network, **factors):
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = network.parameter_groups(weight_decay=1e-4, **factors)
    return {names[id(p)]: (g["lr_factor"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_parameter_groups_are_covers():
    found = groups_by_name(Network(spec("motion")), body_factor=0.01, input_factor=0.1)
    assert found["inputs.motion.norm.weight"] == (0.1, 0)
    assert found["backbone.conv1.0.weight"] == (0.1, 1e-4)
    assert found["backbone.bn1.weight"] == (0.1, 0)
    assert found["backbone.layer1.0.conv1.weight"] == (0.01, 1e-4)
    assert found["backbone.fc.weight"] == (1, 1e-4)
    assert found["backbone.fc.bias"] == (1, 0)
    network = Network(spec("iframe"))
    found = groups_by_name(network, body_factor=0.01, input_factor=0.1)
    assert found["backbone.conv1.0.weight"] == (0.01, 1e-4)
    assert len(found) == len(list(network.parameters()))


def test_frozen_parameters_are_in_no_group():
    network = Network(spec("iframe"))
    network.backbone.conv1.requires_grad_(False)
    assert not any(name.startswith("backbone.conv1") for name in groups_by_name(network))


def test_spec_survives_its_dictionary():
    original = spec("motion", "iframe")
    assert NetworkSpec.from_dict(original.to_dict()) == original
    with pytest.raises(ConfigError, match="described by backbone, depth"):
        NetworkSpec.from_dict({"backbone": BACKBONE, "depth": 3})


def test_wrong_specs_are_refused():
    with pytest.raises(ConfigError, match=r"resnet81 is unknown to timm .*close to it: resnet"):
        spec("iframe", backbone="resnet81")
    with pytest.raises(ConfigError, match=r"no weights of the tag in2k .*accepted: .*a1_in1k"):
        spec("iframe", backbone="resnet18.in2k")
    assert spec("iframe", backbone="resnet18.a1_in1k").backbone == "resnet18.a1_in1k"
    with pytest.raises(ConfigError, match="streams of a network: flow"):
        spec("flow")
    with pytest.raises(ConfigError, match="num_classes is 0"):
        NetworkSpec(("iframe",), BACKBONE, 0, 32)
    with pytest.raises(ConfigError, match="input_size is 0"):
        NetworkSpec(("iframe",), BACKBONE, 5, 0)


def test_wrong_inputs_are_refused():
    network = Network(spec("iframe", "motion"))
    streams = random_streams("iframe", "motion")
    with pytest.raises(ConfigError, match=r"needs iframe, motion, but was given motion\. Read iframe too"):
        network({"motion": streams["motion"]})
    with pytest.raises(ValueError, match=r"iframe is float32\[2, 3, 3, 32, 32\]"):
        network(streams | {"iframe": streams["iframe"].float()})
    with pytest.raises(ValueError, match=r"motion is uint8\[2, 3, 3, 32, 32\] \(accepted: uint8 \[B, S, 2, H, W\]\)"):
        network(streams | {"motion": streams["iframe"]})
    with pytest.raises(ValueError, match="the same B, S, H and W"):
        network(streams | {"motion": streams["motion"][:, :2]})


@pytest.mark.parametrize("name", ["a.b", "", "a-b", "keys", "forward", "training"])
def test_names_that_do_not_fit_are_refused(name):
    with pytest.raises(ConfigError, match=r"students: .* is not a valid name"):
        module_dict({name: torch.nn.Identity()}, where="students")


def test_no_networks_are_refused():
    with pytest.raises(ConfigError, match="teachers: none are given"):
        module_dict({}, where="teachers")


def test_channels_last_changes_the_layout_of_2d_and_3d_filters_and_no_value():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(1), nn.Linear(4, 2)).eval()
    values = torch.randn(2, 3, 3, 3)
    expected, parameters = module(values), list(module.parameters())
    assert channels_last(module) is module
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(a is b for a, b in zip(module.parameters(), parameters, strict=True))
    torch.testing.assert_close(module(values), expected)
    deep = channels_last(nn.Conv3d(3, 4, 3))
    assert deep.weight.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 16, 1), nn.Conv2d(8, 8, 3, groups=8)])
def test_filters_lie_in_memory_as_their_gradients_do(layer):
    """Otherwise DistributedDataParallel, which exchanges gradients in the place of others, copies them and warns."""
    values = torch.randn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    channels_last(layer)(values).sum().backward()
    assert layer.weight.stride() == layer.weight.grad.stride()
