"""From streams and timm's name of a backbone to a network whose input normalisation is its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import timm
import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from videokd.errors import ConfigError
from videokd.models.network_spec import NetworkSpec, names_of, size_options
from videokd.models.temporal_shift import insert_shifts
from videokd.models.video_backbone import VideoBackbone, is_video
from videokd.types import STREAMS, input_key

Module = TypeVar("Module", bound=nn.Module)


def module_dict(networks: Mapping[str, nn.Module], *, where: str) -> nn.ModuleDict:
    """The modules by name, the names fit for state dicts, settings and file names.

    Raises:
        ConfigError: there is none, or a name holds anything but letters, digits and underscores, or is a word that
            PyTorch keeps for itself.
    """
    if not networks:
        raise ConfigError(f"{where}: none are given (accepted: one or more). Add one.")
    for name in networks:
        if not re.fullmatch(r"[A-Za-z0-9_]+", name) or hasattr(nn.ModuleDict(), name):
            raise ConfigError(
                f"{where}: {name!r} is not a valid name (accepted: letters, digits and underscores, but none of PyTorch's own "
                "words such as 'keys'). Choose another name."
            )
    return nn.ModuleDict(dict(networks))


def channels_last(module: Module) -> Module:
    """Lets a module's convolutions keep their channels innermost in memory, 2-D and 3-D ones alike; changes no value.

    `module.to(memory_format=torch.channels_last)` fails as soon as one filter has five dimensions.

    Args:
        module: changed in place; move it to its device first.

    >>> channels_last(nn.Conv3d(2, 4, 3)).weight.is_contiguous(memory_format=torch.channels_last_3d)
    True
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for values in (*module.parameters(), *module.buffers()):
        if values.ndim in formats:
            # a new tensor, because `contiguous` leaves a filter of one pixel with strides that its gradient does not have
            values.data = torch.empty_like(values.data, memory_format=formats[values.ndim]).copy_(values.data)
    return module


class _StreamInput(nn.Module):
    """uint8 values of one stream to the backbone's input range."""

    scale: Tensor
    shift: Tensor

    def __init__(self, stream: str) -> None:
        super().__init__()
        spec = STREAMS[stream]
        # (u/255 − mean) / std as one product and one sum. Not persistent: the network's spec is their source.
        self.register_buffer("scale", torch.ones(spec.channels, 1, 1), persistent=False)
        self.register_buffer("shift", torch.zeros(spec.channels, 1, 1), persistent=False)
        self.norm = nn.BatchNorm2d(spec.channels) if spec.input_batch_norm else nn.Identity()

    def set_normalisation(self, means: Sequence[float], stds: Sequence[float]) -> None:
        mean = torch.tensor(means, dtype=torch.float64, device="cpu").reshape(-1, 1, 1)  # [C, 1, 1]
        std = torch.tensor(stds, dtype=torch.float64, device="cpu").reshape(-1, 1, 1)
        self.scale.copy_(1 / (255 * std))
        self.shift.copy_(-mean / std)

    def forward(self, values: Tensor) -> Tensor:
        # copied as uint8, which is a quarter of the bytes, and widened there
        wide = values.to(self.scale.device, non_blocking=True).to(self.scale.dtype)
        normalised: Tensor = self.norm(torch.addcmul(self.shift, wide, self.scale))
        return normalised


class Network(nn.Module):
    """One or more streams, stacked as channels, through a backbone; the mean over segments of its logits.

    A video network takes the S segments as the frames of one clip, in their order, and gives its logits without a mean.

    Args:
        spec: streams, backbone, classes, input size and normalisation, temporal shift, hidden units of the classifier.
        dropout: share of the features dropped before the classifier.

    Raises:
        ConfigError: the classifier can have no hidden layer, or there are no residual blocks to shift.

    >>> network = Network(NetworkSpec(("motion",), "test_resnet", 5, 32)).eval()
    >>> network({"motion": torch.zeros(2, 3, 2, 32, 32, dtype=torch.uint8)}).shape
    torch.Size([2, 5])
    """

    backbone: Any  # mostly one of timm's modules: what it offers beyond nn.Module is not typed

    def __init__(self, spec: NetworkSpec, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        self.inputs = nn.ModuleDict({name: _StreamInput(name) for name in spec.streams})
        self.set_normalisation(spec.mean, spec.std)
        self.backbone = _create_backbone(spec, dropout=dropout)
        if spec.head_units:
            _add_hidden_layer(self.backbone, spec)
        self._segments = insert_shifts(self.backbone, name=spec.backbone) if spec.temporal_shift else None

    def set_normalisation(
        self, mean: tuple[float, float, float] | None, std: tuple[float, float, float] | None
    ) -> None:
        """Normalises its pictures in another way from now on: for weights that were trained so.

        Args:
            mean: as in the spec.
            std: as in the spec.

        Raises:
            ConfigError: a number is out of range.
        """
        self.spec = replace(self.spec, mean=mean, std=std)
        for name, stream_input in self.inputs.items():
            assert isinstance(stream_input, _StreamInput)
            stream_input.set_normalisation(*self.spec.normalisation(name))

    def forward(self, streams: Mapping[str, Tensor], *, with_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of a batch.

        Args:
            streams: {stream: uint8 [B, S, C, H, W]}; streams that the network does not see are ignored, and those on another
                device are copied to the network's. Where there is `STREAM@SIZE` for the network's input size, that is taken
                (`videokd.types.input_key`).
            with_features: give the deepest features too, pooled, as the classifier gets them.

        Returns:
            [B, K], in float32 also under autocast: the mean over segments; with features a pair, of logits and of [B, D], their mean over
            segments.

        Raises:
            ConfigError: a stream is missing, or a video network is given too few segments.
            ValueError: a stream has another dtype or shape, or streams differ in B, S, H or W.
        """
        values, num_segments = self.prepare(streams)
        if is_video(self.spec.backbone):
            values, num_segments = rearrange(values, "(b t) c h w -> b c t h w", t=num_segments), 1
        if not with_features:
            return self.consensus(self.backbone(values), num_segments=num_segments)
        logits, features = self._head(self.backbone.forward_features(values))
        return self.consensus(logits, num_segments=num_segments), self.consensus(features, num_segments=num_segments)

    @property
    def feature_width(self) -> int:
        """D, the number of features that the classifier gets.

        Raises:
            ConfigError: the backbone does not give them.
        """
        if not all(hasattr(self.backbone, part) for part in ("head_hidden_size", "forward_features", "forward_head")):
            raise ConfigError(
                f"backbone {self.spec.backbone} does not give its features. Choose another, such as resnet18, or set "
                "objective.feature_weight and objective.relation_weight to 0."
            )
        return int(self.backbone.head_hidden_size)

    def prepare(self, streams: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """The pictures, [(B S), C, H, W] normalised, and S; arguments and errors as for `forward`.

        Temporal shifts in the backbone read S from here on.
        """
        streams = self._own_inputs(streams)
        first = streams[self.spec.streams[0]]
        if self._segments is not None:
            self._segments.value = first.shape[1]
        parts = [self.inputs[name](rearrange(streams[name], "b s c h w -> (b s) c h w")) for name in self.spec.streams]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)), first.shape[1]

    @staticmethod
    def consensus(logits: Tensor, *, num_segments: int) -> Tensor:
        """The mean over segments, in float32 or wider: [(B S), K] to [B, K] (Wang et al. 2016, Temporal Segment Networks)."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        mean: Tensor = reduce(wide, "(b s) k -> b k", "mean", s=num_segments)
        return mean

    def segment_features(self, streams: Mapping[str, Tensor]) -> Tensor:
        """What the classifier takes, of each segment; arguments and errors as for `forward`, but not for video networks.

        Args:
            streams: {stream: uint8 [B, S, C, H, W]}.

        Returns:
            [B, S, D].
        """
        values, num_segments = self.prepare(streams)
        pooled = self.backbone.forward_head(self.backbone.forward_features(values), pre_logits=True)
        return rearrange(pooled, "(b s) d -> b s d", s=num_segments)

    @property
    def classifier(self) -> nn.Module:
        """The layers that make logits [rows, K] of the features of `segment_features`, [rows, D]."""
        classifier: nn.Module = self.backbone.get_classifier()
        return classifier

    def forward_stages(
        self, streams: Mapping[str, Tensor], *, stages: Sequence[int]
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Logits, and what shallow exits start from; arguments and errors as for `forward`.

        Args:
            streams: {stream: uint8 [B, S, C, H, W]}.
            stages: numbers of the backbone's stages, in timm's `feature_info`.

        Returns:
            Logits [B, K]; for each stage its features [(B S), C', H', W']; the deepest features, pooled, [(B S), D].
        """
        values, num_segments = self.prepare(streams)
        last, features = self.backbone.forward_intermediates(values, indices=list(stages), output_fmt="NCHW")
        logits, deepest = self._head(last)
        return self.consensus(logits, num_segments=num_segments), features, deepest

    def _head(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and pooled features of what comes out of the last stage.

        The head runs once where its classifier stands by itself, or a BatchNorm in it (MobileNetV4) would count each batch twice.
        """
        features = self.backbone.forward_head(last, pre_logits=True)
        classifier = self.backbone.get_classifier()
        alone = isinstance(classifier, (nn.Linear, nn.Sequential))
        return (classifier(features) if alone else self.backbone.forward_head(last)), features

    def parameter_groups(
        self, *, weight_decay: float = 0.0, body_factor: float = 1.0, input_factor: float = 1.0
    ) -> list[dict[str, Any]]:
        """The parameters that are trained, grouped by learning rate and weight decay, for `build_optimizer`.

        CoViAR fine-tunes pretrained weights with body_factor 0.01 and input_factor 0.1 (Wu et al. 2018). First layers
        count as input only where a stream has a BatchNorm on its input (motion and residual): the filters of others
        carry over from ImageNet, and belong to the body. Biases and norms are not decayed.

        Args:
            weight_decay: of matrices and filters.
            body_factor: learning rate of the backbone, relative to the classifier's.
            input_factor: learning rate of the first layers, relative to the classifier's.

        Returns:
            Up to six groups with the keys `params`, `weight_decay` and `lr_factor`.
        """
        config = self.backbone.default_cfg
        classifier = names_of(config.get("classifier"))
        first = {name.partition(".")[0] for name in names_of(config.get("first_conv"))} | {"bn1"}
        adapted = any(STREAMS[name].input_batch_norm for name in self.spec.streams)
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            part, _, inside = name.partition(".")
            factor = body_factor
            if part == "backbone" and any(inside.startswith(f"{prefix}.") for prefix in classifier):
                factor = 1.0
            elif part == "inputs" or (adapted and inside.partition(".")[0] in first):
                factor = input_factor
            decay = weight_decay if parameter.ndim > 1 else 0.0
            if parameter.requires_grad:
                groups.setdefault((factor, decay), []).append(parameter)
        return [
            {"params": parameters, "weight_decay": decay, "lr_factor": factor}
            for (factor, decay), parameters in groups.items()
        ]

    def _own_inputs(self, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """{stream: its pictures at this network's size, where the batch has them, otherwise at the batch's main size}."""
        at_size = {name: input_key(name, self.spec.input_size, main_size=0) for name in self.spec.streams}
        streams = {**given, **{name: given[key] for name, key in at_size.items() if key in given}}
        self._check_input(streams)
        return streams

    def _check_input(self, streams: Mapping[str, Tensor]) -> None:
        missing = [name for name in self.spec.streams if name not in streams]
        if missing:
            raise ConfigError(
                f"the network needs {', '.join(self.spec.streams)}, but was given {', '.join(streams) or 'nothing'}. "
                f"Read {', '.join(missing)} too."
            )
        shapes = {name: tuple(streams[name].shape) for name in self.spec.streams}
        for name, shape in shapes.items():
            channels = STREAMS[name].channels
            if len(shape) != 5 or shape[2] != channels or streams[name].dtype != torch.uint8:
                given = f"{str(streams[name].dtype).removeprefix('torch.')}{list(shape)}"
                raise ValueError(f"{name} is {given} (accepted: uint8 [B, S, {channels}, H, W])")
        # Compared one by one and not in a set: while a network is exported, sizes are symbols without a hash.
        sizes = [shape[:2] + shape[3:] for shape in shapes.values()]
        if any(size != sizes[0] for size in sizes):
            raise ValueError(f"streams are {shapes} (accepted: the same B, S, H and W for all)")


def streams_of(networks: nn.ModuleDict) -> tuple[str, ...]:
    """The union of the networks' streams, in the order of first use."""
    members = [network for network in networks.values() if isinstance(network, Network)]
    return tuple(dict.fromkeys(stream for network in members for stream in network.spec.streams))


def _create_backbone(spec: NetworkSpec, *, dropout: float) -> nn.Module:
    if is_video(spec.backbone):
        return VideoBackbone(
            spec.backbone, num_channels=spec.num_channels, num_classes=spec.num_classes, dropout=dropout
        )
    network: nn.Module = timm.create_model(
        spec.backbone,
        in_chans=spec.num_channels,
        num_classes=spec.num_classes,
        drop_rate=dropout,
        **size_options(spec),
    )
    return network


def _add_hidden_layer(backbone: Any, spec: NetworkSpec) -> None:
    """Puts Linear → ReLU → Linear where timm's linear classifier is."""
    names = names_of(backbone.default_cfg.get("classifier"))
    linear = backbone.get_submodule(names[0]) if len(names) == 1 else None
    if not isinstance(linear, nn.Linear):
        raise ConfigError(
            f"head_units is {spec.head_units}, and the classifier of {spec.backbone} is not one linear layer (accepted: 0 for this "
            "backbone). Set it to 0, or choose another backbone, such as resnet18."
        )
    parent, _, last = names[0].rpartition(".")
    hidden = nn.Linear(linear.in_features, spec.head_units)
    setattr(
        backbone.get_submodule(parent),
        last,
        nn.Sequential(hidden, nn.ReLU(), nn.Linear(spec.head_units, spec.num_classes)),
    )
