"""What a network is built from: normalisation, a hidden layer in the classifier, and descriptions of earlier versions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.small_networks import random_streams, spec
from videokd.errors import ConfigError
from videokd.models.backbone import Network
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, Students, build_students
from videokd.types import STREAMS

HALF = (0.5, 0.5, 0.5)


def new(*streams: str, backbone: str = "test_resnet") -> NetworkSpec:
    return NetworkSpec.new(streams, backbone, num_classes=5, input_size=32)


def test_new_networks_are_normalised_as_their_backbones_pretrained_weights():
    assert (new("iframe").mean, new("iframe").std) == (HALF, HALF)  # as timm has it for test_resnet
    assert new("rgb", "motion", backbone="tf_efficientnet_lite2.in1k").std == HALF
    assert new("iframe", backbone="resnet18").mean == (0.485, 0.456, 0.406)
    assert new("iframe", backbone="video:mc3_18").mean == (0.43216, 0.394666, 0.37645)
    assert new("motion", "residual").mean is None
    assert new("rgb", backbone="").backbone == "resnet50"
    with pytest.raises(ConfigError, match="unknown to timm"):
        new("iframe", backbone="resnet81")


def test_only_pictures_are_normalised_by_the_spec():
    network = Network(replace(spec("iframe", "residual"), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1))).eval()
    streams = random_streams("iframe", "residual")
    values, _ = network.prepare(streams)
    plain, _ = Network(spec("iframe", "residual")).eval().prepare(streams)
    expected = streams["iframe"].double().numpy() / 255
    expected = (expected - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array([0.5, 0.25, 1])[:, None, None]
    np.testing.assert_allclose(values[:, :3].detach(), expected.reshape(6, 3, 32, 32), atol=2e-6)
    assert torch.equal(values[:, 3:], plain[:, 3:])


def test_descriptions_without_normalisation_keep_that_of_imagenet():
    students = build_students({"a": spec("iframe")}, PredictionSpec(list("vwxyz"), 3), seed=0)
    description = json.loads(json.dumps(students.description()))
    for name in ("mean", "std", "head_units"):
        del description["members"]["a"][name]
    old = Students.from_description(description)
    assert old.specs["a"].normalisation("iframe") == (STREAMS["iframe"].mean, STREAMS["iframe"].std)


def test_a_spec_with_every_field_survives_json():
    full = replace(new("iframe"), mean=(0.1, 0.2, 0.3), head_units=7)
    assert NetworkSpec.from_dict(json.loads(json.dumps(full.to_dict()))) == full


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": [0.5, 0.5], "std": HALF}, r"mean is \[0.5, 0.5\] \(accepted: three numbers from 0 to 1"),
        ({"mean": 0.5, "std": HALF}, "mean is 0.5"),
        ({"mean": ["0", 0, 0], "std": HALF}, r"mean is \['0', 0, 0\]"),
        ({"mean": [float("nan"), 0, 0], "std": HALF}, r"mean is \[nan, 0, 0\]"),
        ({"mean": HALF, "std": [0, 1, 1]}, r"std is \[0, 1, 1\] \(accepted: three numbers from 0.001 to 1000"),
        ({"mean": HALF, "std": [float("inf"), 1, 1]}, r"std is \[inf, 1, 1\]"),
        ({"mean": HALF}, r"mean is \(0.5, 0.5, 0.5\) and std None \(accepted: both, or none\)"),
        ({"head_units": -1}, r"head_units is -1 \(accepted: 0 to 65536\)"),
        ({"head_units": True}, "head_units is True"),
        ({"head_units": 10**9}, "head_units is 1000000000"),
        ({"head_units": 8, "backbone": "video:mc3_18"}, r"head_units is 8 \(accepted: 0 for a video network\)"),
    ],
)
def test_what_is_out_of_range_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        NetworkSpec.from_dict(spec("iframe").to_dict() | values)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_a_hidden_layer_stands_where_the_classifier_was(backbone):
    network = Network(replace(spec("iframe", backbone=backbone, size=64), head_units=7)).eval()
    streams = random_streams("iframe", size=64)
    assert network(streams).shape == (2, 5)
    head = network.backbone.get_submodule(network.backbone.default_cfg["classifier"])
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Linear]
    values, segments = network.prepare(streams)
    features = network.backbone.forward_head(network.backbone.forward_features(values), pre_logits=True)
    torch.testing.assert_close(network(streams), network.consensus(head(features), num_segments=segments))
    groups = network.parameter_groups(body_factor=0.01)
    fast = {id(p) for group in groups if group["lr_factor"] == 1 for p in group["params"]}
    assert fast == {id(parameter) for parameter in head.parameters()}


def test_a_classifier_that_is_not_one_linear_layer_gets_no_hidden_one():
    wrong = replace(spec("iframe", backbone="deit_tiny_distilled_patch16_224", size=32), head_units=7)
    with pytest.raises(ConfigError, match="classifier of deit_tiny_distilled_patch16_224 is not one linear layer"):
        Network(wrong)


def test_normalisation_can_be_replaced():
    network = Network(new("iframe")).eval()
    streams = random_streams("iframe")
    network.set_normalisation(None, None)
    assert network.spec == spec("iframe")
    assert torch.equal(network.prepare(streams)[0], Network(spec("iframe")).eval().prepare(streams)[0])
