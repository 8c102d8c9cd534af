"""What a new network keeps of a trained one: filters, classes, BatchNorm on the input, normalisation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.small_networks import random_streams, spec
from videokd.errors import ConfigError
from videokd.models.backbone import Network
from videokd.models.students import PredictionSpec, build_students
from videokd.models.transfer import adapted_filters, start_from, weights_of_network
from videokd.types import STREAMS

CLASSES = tuple("vwxyz")


def trained(*streams, seed=1, **changes):
    """A network whose every value differs from that of a new one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(replace(spec(*streams), **changes)).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                    values.uniform_(0.5, 1.5)
    return network


def weights_of(network, class_names=CLASSES):
    return weights_of_network(network, source="runs/a", sha256="0" * 64, class_names=class_names)


def test_equal_streams_and_classes_give_the_trained_network_again():
    donor = trained("motion", "iframe", mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))
    network = Network(spec("motion", "iframe")).eval()
    start_from(network, weights_of(donor), class_names=CLASSES)
    streams = random_streams("motion", "iframe")
    assert torch.equal(network(streams), donor(streams))
    assert network.spec == donor.spec


def test_streams_in_another_order_give_the_same_predictions():
    donor = trained("motion", "iframe")
    network = Network(spec("iframe", "motion")).eval()
    start_from(network, weights_of(donor), class_names=CLASSES)
    streams = random_streams("motion", "iframe")
    torch.testing.assert_close(network(streams), donor(streams), rtol=1e-4, atol=1e-5)


def test_shifts_are_the_new_networks_own():
    donor = trained("iframe", temporal_shift=True)
    for shifted in (False, True):
        network = Network(replace(spec("iframe"), temporal_shift=shifted)).eval()
        start_from(network, weights_of(donor), class_names=CLASSES)
        conv = network.backbone.layer1[0].conv1
        assert torch.equal((conv.conv if shifted else conv).weight, donor.backbone.layer1[0].conv1.conv.weight)
    streams = random_streams("iframe")
    assert torch.equal(network(streams), donor(streams))


def test_only_classes_of_equal_name_keep_their_rows():
    donor = trained("iframe")
    network = Network(replace(spec("iframe"), num_classes=3)).eval()
    random = network.backbone.fc.weight.detach().clone()
    start_from(network, weights_of(donor), class_names=("z", "new", "w"))
    assert torch.equal(network.backbone.fc.weight[[0, 2]], donor.backbone.fc.weight[[4, 1]])
    assert torch.equal(network.backbone.fc.bias[[0, 2]], donor.backbone.fc.bias[[4, 1]])
    assert torch.equal(network.backbone.fc.weight[1], random[1])
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_hidden_layer_of_the_classifier_is_kept_where_it_fits():
    donor = trained("iframe", head_units=7)
    same, other = (Network(replace(spec("iframe"), head_units=units)).eval() for units in (7, 0))
    streams = random_streams("iframe")
    start_from(same, weights_of(donor), class_names=CLASSES)
    assert torch.equal(same(streams), donor(streams))
    before = other.backbone.fc.weight.detach().clone()
    start_from(other, weights_of(donor), class_names=CLASSES)
    assert torch.equal(other.backbone.fc.weight, before)


def test_another_backbone_is_refused():
    with pytest.raises(ConfigError, match=r"init: runs/a does not fit test_efficientnet: .* is missing there"):
        start_from(
            Network(spec("iframe", backbone="test_efficientnet")), weights_of(trained("iframe")), class_names=CLASSES
        )
    vit = Network(spec("iframe", backbone="test_vit", size=64))
    with pytest.raises(ConfigError, match=r"pos_embed is \[1, 17, 64\] there, \[1, 5, 64\] here"):
        start_from(Network(spec("iframe", backbone="test_vit", size=32)), weights_of(vit), class_names=CLASSES)


def test_a_first_layer_that_mixes_pixels_and_channels_keeps_its_streams():
    """TResNet's sees 16 pixels of each channel as 48 channels."""
    with torch.device("meta"):  # shapes are enough
        donor = Network(spec("iframe", backbone="tresnet_m", size=64))
        same = Network(spec("iframe", backbone="tresnet_m", size=64))
        other = Network(spec("iframe", "motion", backbone="tresnet_m", size=64))
    start_from(same, weights_of(donor), class_names=CLASSES)
    with pytest.raises(ConfigError, match="tresnet_m cannot be adapted from iframe to iframe, motion"):
        start_from(other, weights_of(donor), class_names=CLASSES)


def test_the_i_frames_filters_are_intact_and_the_others_a_tenth_of_their_response():
    filters = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    new = adapted_filters(filters, streams=("iframe",), wanted=("motion", "iframe", "residual"))
    assert torch.equal(new[:, 2:5], filters)
    factor = 0.1 / 2**0.5
    torch.testing.assert_close(new[:, 5:], filters * factor)
    for channel in (0, 1):
        torch.testing.assert_close(new[:, channel], filters.mean(dim=1) * 1.5 * factor)


def test_a_single_stream_takes_the_whole_response():
    filters = torch.randn(4, 3, 3, 3, 3, generator=torch.Generator().manual_seed(0))  # of a video network
    motion = adapted_filters(filters, streams=("iframe",), wanted=("motion",))
    torch.testing.assert_close(motion.sum(dim=1), filters.sum(dim=1))
    for name in ("rgb", "iframe", "residual"):
        assert torch.equal(adapted_filters(filters, streams=("iframe",), wanted=(name,)), filters)
    back = adapted_filters(motion, streams=("motion",), wanted=("residual",))
    torch.testing.assert_close(back.sum(dim=1), filters.sum(dim=1))
    pair = adapted_filters(filters, streams=("iframe",), wanted=("motion", "residual"))
    torch.testing.assert_close(pair[:, 2:], filters / 2**0.5)


def test_pictures_are_taken_once():
    filters = torch.ones(1, 3, 1, 1)
    new = adapted_filters(filters, streams=("iframe",), wanted=("rgb", "iframe"))
    torch.testing.assert_close(new[:, :3], 0.1 * filters)
    assert torch.equal(new[:, 3:], filters)
    stacked = torch.cat([2 * torch.ones(1, 2, 1, 1), filters], dim=1)
    again = adapted_filters(stacked, streams=("motion", "iframe"), wanted=("rgb", "motion"))
    assert torch.equal(again, torch.cat([filters, 2 * torch.ones(1, 2, 1, 1)], dim=1))


@pytest.mark.parametrize("name", list(STREAMS))
@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit", "video:mc3_18"])
def test_every_stream_can_start_from_pictures(name, backbone):
    donor = Network(spec("rgb", backbone=backbone, size=32))
    network = Network(spec(name, backbone=backbone, size=32)).eval()
    start_from(network, weights_of(donor), class_names=CLASSES)
    assert network(random_streams(name)).isfinite().all()


def test_students_of_equal_weights_differ_in_their_classifiers_only():
    specs = {"a": spec("iframe"), "b": spec("iframe")}
    start = weights_of(trained("iframe"), class_names=())
    students = build_students(specs, PredictionSpec(CLASSES, 3), seed=0, initial=dict.fromkeys(specs, start))
    a, b = (students.members[name].state_dict() for name in specs)
    assert {name for name in a if not torch.equal(a[name], b[name])} == {"backbone.fc.weight", "backbone.fc.bias"}
