"""Stage by stage, and no further than asked."""

from __future__ import annotations

import pytest
import timm
import torch

from videokd.models.exits import stage_features

KNOWN = ["resnet10t", "test_resnet", "test_convnext", "test_efficientnet", "mobilenetv3_small_050", "regnetx_002"]


def random_backbone(name):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5).eval()


@pytest.mark.parametrize("name", [*KNOWN, "repvgg_a0", "hgnetv2_b0", "dla34"])
def test_stages_are_those_of_timm(name):
    backbone, pictures = random_backbone(name), torch.randn(2, 3, 64, 64)
    stages = sorted({1, 2, len(backbone.feature_info) - 2})
    with torch.no_grad():
        last, expected = backbone.forward_intermediates(pictures, indices=stages)
        *features, head_input = stage_features(backbone, pictures, stages=stages)
        for found, wanted in zip(features, expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(head_input, last, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(backbone.forward_head(head_input), backbone(pictures), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_not_asked_for_is_not_computed(name):
    backbone, pictures = random_backbone(name), torch.randn(2, 3, 64, 64)
    deepest = backbone.feature_info[-1]["module"]
    called = []
    backbone.get_submodule(deepest).register_forward_pre_hook(lambda *_: called.append(deepest))
    features = stage_features(backbone, pictures, stages=[1, 2])
    next(features)
    next(features)
    assert not called
    next(features)
    assert called == [deepest]
