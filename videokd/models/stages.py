"""The features of a backbone's stages, one after the other, so that a caller can stop in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from timm.models.byobnet import ByobNet
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.regnet import RegNet
from timm.models.resnet import ResNet
from torch import Tensor, nn

#: timm's families whose pictures go through these modules, one after the other, on their way to the head. A sequence among
#: them may be left between its parts, which timm's `feature_info` names `stages.0`, `stages.1`, …
_IN_ORDER: Mapping[type[nn.Module], tuple[str, ...]] = {
    ByobNet: ("stem", "stages", "final_conv"),
    ConvNeXt: ("stem", "stages", "norm_pre"),
    EfficientNet: ("conv_stem", "bn1", "blocks", "conv_head", "bn2"),
    MobileNetV3: ("conv_stem", "bn1", "blocks"),
    RegNet: ("stem", "s1", "s2", "s3", "s4", "final_conv"),
    ResNet: ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"),
}


def stage_features(backbone: Any, pictures: Tensor, *, stages: Sequence[int]) -> Iterator[Tensor]:
    """Features of one stage after the other, computed only as far as they are asked for.

    Backbones of other families than ResNet, RegNet, ConvNeXt, RepVGG, EfficientNet and MobileNet start anew for each stage:
    what comes out is the same, and costs more.

    Args:
        backbone: timm's, with feature stages.
        pictures: [B, C, H, W], normalised.
        stages: their numbers in timm's `feature_info`, ascending.

    Yields:
        The features of each stage, [B, C', H', W'], and then those that the backbone's `forward_head` takes.
    """
    modules = _modules_in_order(backbone)
    if not modules:
        for stage in stages:
            yield backbone.forward_intermediates(
                pictures, indices=[stage], stop_early=True, intermediates_only=True, output_fmt="NCHW"
            )[0]
        yield backbone.forward_features(pictures)
        return
    ends = {backbone.feature_info[stage]["module"] for stage in stages}
    features = pictures
    for name, module in modules.items():
        features = module(features)
        if name in ends:
            yield features
    yield features


def _modules_in_order(backbone: nn.Module) -> dict[str, nn.Module]:
    """The modules of `_IN_ORDER` under the names that `feature_info` has for them; none for other families."""
    found: dict[str, nn.Module] = {}
    for name in _IN_ORDER.get(type(backbone), ()):
        module = getattr(backbone, name)
        by_part = any(str(stage["module"]).startswith(f"{name}.") for stage in getattr(backbone, "feature_info", ()))
        found |= {f"{name}.{part}": m for part, m in module.named_children()} if by_part else {name: module}
    return found
