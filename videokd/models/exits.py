""""""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from timm.models.byobnet import ByobNet
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.regnet import RegNet
from timm.models.resnet import ResNet
from torch import Tensor, nn

from videokd.errors import ConfigError
from videokd.models.backbone import Network
from videokd.types import StudentOutput

#: How the backbone's own classifier is called among the exits.
DEEPEST = "deepest"


class _SeparableConv(nn.Sequential):
    """Two depthwise separable convolutions, of which the first halves height and width where asked to."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_in, 3, stride=stride, padding=1, groups=channels_in, bias=False),
            nn.Conv2d(channels_in, channels_in, 1, bias=False),
            nn.BatchNorm2d(channels_in),
            nn.ReLU(),
            nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False),
            nn.Conv2d(channels_in, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        )


class _Exit(nn.Module):
    """One stage's bottleneck, which brings its features to the deepest ones' size, and its classifier."""

    def __init__(self, channels: int, deepest_channels: int, num_classes: int, *, halvings: int) -> None:
        super().__init__()
        steps = []
        for step in range(max(halvings, 1)):
            last = step == max(halvings, 1) - 1
            wider = deepest_channels if last else min(2 * channels, deepest_channels)
            steps.append(_SeparableConv(channels, wider, stride=2 if halvings else 1))
            channels = wider
        self.bottleneck = nn.Sequential(*steps)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.classifier = nn.Linear(deepest_channels, num_classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        adapted = self.pool(self.bottleneck(features))  # [(B S), D]
        return self.classifier(adapted), adapted


class Exits(nn.Module):
    """Shallow exits of one network; they hold no reference to it, only their own bottlenecks and classifiers.

    Args:
        network: whose stages get exits.
        stages: their numbers in timm's `feature_info`; without it, the last stage at each resolution below half the
            input's and above the deepest features' (`layer1` to `layer3` of a ResNet).

    Raises:
        ConfigError: the backbone has no such stages, or does not give its intermediate features.

    >>> import torch
    >>> from videokd.models.network_spec import NetworkSpec
    >>> network = Network(NetworkSpec(("motion",), "test_resnet", 5, 32))
    >>> Exits(network)(network, {"motion": torch.zeros(2, 3, 2, 32, 32, dtype=torch.uint8)})
    StudentOutput(logits=float32[2, 5],
        exits={exit1: float32[2, 5], exit2: float32[2, 5], exit3: float32[2, 5]}, hints={...}, features=float32[2, 96], adapted={})
    """

    def __init__(self, network: Network, *, stages: Sequence[int] | None = None) -> None:
        super().__init__()
        name = network.spec.backbone
        info: Sequence[Mapping[str, int]] = list(getattr(network.backbone, "feature_info", None) or ())
        if not info or not hasattr(network.backbone, "forward_intermediates"):
            raise ConfigError(
                f"backbone {name} does not give the features of its stages. Choose another, such as resnet18."
            )
        self.stages = _default_stages(info) if stages is None else tuple(stages)
        if not self.stages or any(not 0 <= stage < len(info) - 1 for stage in self.stages):
            raise ConfigError(
                f"exits of {name} at stages {', '.join(map(str, self.stages)) or 'none'} (accepted: one or more of "
                f"0 to {len(info) - 2}). Choose among them, or a backbone with stages, such as resnet18."
            )
        deepest_channels: int = network.backbone.head_hidden_size
        for number, stage in enumerate(self.stages, start=1):
            halvings = (info[-1]["reduction"] // info[stage]["reduction"]).bit_length() - 1
            head = _Exit(info[stage]["num_chs"], deepest_channels, network.spec.num_classes, halvings=halvings)
            self.add_module(f"exit{number}", head)

    @property
    def names(self) -> tuple[str, ...]:
        """exit1, exit2, …, the shallowest first."""
        return tuple(name for name, _ in self.named_children())

    def forward(self, network: Network, streams: Mapping[str, Tensor]) -> StudentOutput:
        """The network's output together with that of its exits.

        Args:
            network: the one the exits were made for.
            streams: {stream: uint8 [B, S, C, H, W]}.

        Returns:
            Logits and exits, [B, K] each; hints, a pair of [(B S), D] for each exit; features, [B, D].
        """
        logits, features, deepest = network.forward_stages(streams, stages=self.stages)
        num_segments = deepest.shape[0] // logits.shape[0]
        exits, hints = {}, {}
        for (name, head), values in zip(self.named_children(), features, strict=True):
            shallow, adapted = head(values)
            exits[name] = network.consensus(shallow, num_segments=num_segments)
            hints[name] = (adapted, deepest)
        return StudentOutput(logits, exits, hints, network.consensus(deepest, num_segments=num_segments))

    def stagewise(
        self, network: Network, streams: Mapping[str, Tensor], *, names: Collection[str] | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """The exits one after the other, computed only as far as they are asked for: to stop, ask no more.

        Args:
            network: the one the exits were made for.
            streams: {stream: uint8 [B, S, C, H, W]}.
            names: the exits to compute, in addition to the deepest; all if omitted.

        Yields:
            Its name and its logits [B, K], the mean over segments, of each exit; "deepest" comes last.
        """
        pictures, num_segments = network.prepare(streams)
        chosen = [
            (name, head, stage)
            for (name, head), stage in zip(self.named_children(), self.stages, strict=True)
            if names is None or name in names
        ]
        features = stage_features(network.backbone, pictures, stages=[stage for _, _, stage in chosen])
        for name, head, _ in chosen:
            shallow, _ = head(next(features))
            yield name, network.consensus(shallow, num_segments=num_segments)
        yield DEEPEST, network.consensus(network.backbone.forward_head(next(features)), num_segments=num_segments)


def first_confident_exit(exits: Iterator[tuple[str, Tensor]], *, threshold: float) -> tuple[Tensor, tuple[str, ...]]:
    """Each video's logits at the first exit that is confident enough; later exits are computed only if some video needs them.

    Args:
        exits: from `Exits.stagewise`.
        threshold: what the largest probability must exceed; a video that passes no threshold takes the deepest exit.

    Returns:
        Logits [B, K]; the name of each video's exit.

    >>> import torch
    >>> exit1, deepest = torch.tensor([[9.0, 0.0], [1.0, 0.9]]), torch.zeros(2, 2)
    >>> logits, names = first_confident_exit(iter([("exit1", exit1), ("deepest", deepest)]), threshold=0.9)
    >>> logits.tolist(), names
    ([[9.0, 0.0], [0.0, 0.0]], ('exit1', 'deepest'))
    """
    chosen: Tensor | None = None
    names: list[str] = []
    for name, logits in exits:
        # float64: a probability below 1 must not be rounded up to it
        confident = logits.double().softmax(1).amax(1) > threshold  # [B]
        if chosen is None:
            chosen, names = logits.clone(), [""] * len(logits)
        for video, leaves in enumerate(confident.tolist()):
            if not names[video] and (leaves or name == DEEPEST):
                chosen[video], names[video] = logits[video], name
        if all(names):
            break
    assert chosen is not None, "there is always the deepest exit"
    return chosen, tuple(names)


def _default_stages(info: Sequence[Mapping[str, int]]) -> tuple[int, ...]:
    last_of = {stage["reduction"]: number for number, stage in enumerate(info)}
    deepest = info[-1]["reduction"]
    return tuple(number for reduction, number in last_of.items() if 2 < reduction < deepest)


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

    Backbones of other families than ResNet, RegNet, ConvNeXt, RepVGG, EfficientNet and MobileNet run again from the input for each stage:
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
