"""What a network is built from: streams, backbone, classes, input size and normalisation; checked, as it may come from a file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import timm

from videokd.errors import ConfigError
from videokd.models.video_backbone import KINETICS_MEAN, KINETICS_STD, check_video_backbone, is_video
from videokd.types import STREAMS, check_streams

_MOST = {"num_classes": 1_000_000, "input_size": 4096}
_MOST_HEAD_UNITS = 65_536
#: Accepted means and deviations of values from 0 to 1; every configuration of timm is within.
_NORMALISATION = {"mean": (0.0, 1.0), "std": (1e-3, 1e3)}


def names_of(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """The modules that timm's configurations name: it gives one name, several, or none.

    Args:
        value: as it stands there, such as under `classifier`.

    Returns:
        The names.
    """
    return (value,) if isinstance(value, str) else tuple(value or ())


def default_backbone(streams: Iterable[str]) -> str:
    """timm's name of the backbone to use where none is given: CoViAR's for a single stream, ResNet-18 for stacked ones.

    >>> default_backbone(["iframe"]), default_backbone(["iframe", "motion"])
    ('resnet152', 'resnet18')
    """
    names = check_streams(streams, where="streams of a network")
    return STREAMS[names[0]].default_backbone if len(names) == 1 else "resnet18"


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that is needed to build a network again, before its weights are loaded.

    `NetworkSpec.new` makes the spec of a network that is to be trained, with its backbone's own normalisation.

    Args:
        streams: what it sees, stacked as channels in this order.
        backbone: timm's name, with or without the tag of its pretrained weights; or `video:` and torchvision's name of a video
            network (r3d_18, mc3_18, r2plus1d_18, s3d), which sees a clip's segments as the frames of one clip.
        num_classes: K.
        input_size: height and width of its input in pixels.
        temporal_shift: whether residual blocks see features of the neighbouring segments (TSM, Lin et al. 2019); for timm's
            ResNets.
        mean: of red, green and blue in [0, 1], subtracted from streams that are pictures (iframe, rgb); None: ImageNet's, and
            Kinetics' for a video network.
        std: as `mean`: what these streams are divided by.
        head_units: of a hidden layer in the classifier, Linear → ReLU → Linear; 0: the backbone's own, which is linear.

    Raises:
        ConfigError: a stream or the backbone is unknown, a number is out of range, or a video network is to be shifted or to have
            a hidden layer in its classifier.

    >>> spec = NetworkSpec(("motion",), "resnet18", 101, 224)
    >>> NetworkSpec.from_dict(spec.to_dict()) == spec
    True
    """

    streams: tuple[str, ...]
    backbone: str
    num_classes: int
    input_size: int
    temporal_shift: bool = False
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    head_units: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "streams", check_streams(self.streams, where="streams of a network"))
        (check_video_backbone if is_video(self.backbone) else _check_backbone)(self.backbone)
        if self.temporal_shift and is_video(self.backbone):
            raise ConfigError(
                f"temporal_shift is for 2-D networks, and {self.backbone} sees time by itself (accepted: false). Omit it."
            )
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)} (accepted: 1 to {most}). Correct the setting.")
        for name, limits in _NORMALISATION.items():
            object.__setattr__(self, name, _checked_normalisation(name, getattr(self, name), limits=limits))
        if (self.mean is None) != (self.std is None):
            raise ConfigError(f"mean is {self.mean} and std {self.std} (accepted: both, or none). Give the other too.")
        most = 0 if is_video(self.backbone) else _MOST_HEAD_UNITS
        if type(self.head_units) is not int or not 0 <= self.head_units <= most:
            accepted = f"0 to {most}" if most else "0 for a video network"
            raise ConfigError(f"head_units is {self.head_units!r:.80} (accepted: {accepted}). Correct the setting.")

    @classmethod
    def new(
        cls,
        streams: Sequence[str],
        backbone: str = "",
        *,
        num_classes: int,
        input_size: int,
        temporal_shift: bool = False,
    ) -> NetworkSpec:
        """The spec of a network that is to be trained: its pictures are normalised as for its backbone's pretrained weights.

        Args:
            streams: what it sees, stacked as channels in this order.
            backbone: as for the spec; the streams' default if empty.
            num_classes: K.
            input_size: height and width of its input in pixels.
            temporal_shift: as for the spec.

        Raises:
            ConfigError: as for the spec.

        >>> spec = NetworkSpec.new(["iframe"], "tf_efficientnet_lite0", num_classes=5, input_size=96)
        >>> spec.mean, spec.std
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        """
        name = backbone or default_backbone(streams)
        given = (tuple(streams), name, num_classes, input_size, temporal_shift)
        cls(*given)  # refuses an unknown backbone before timm is asked for its configuration
        pictures = any(not STREAMS[stream].input_batch_norm for stream in streams)
        mean, std = _own_normalisation(name) if pictures else (None, None)
        return cls(*given, mean=mean, std=std)

    @property
    def sees_order(self) -> bool:
        """Whether the order of the segments matters, so that different crops of a clip must not be given as one clip."""
        return self.temporal_shift or is_video(self.backbone)

    @property
    def num_channels(self) -> int:
        """Channels of all its streams together."""
        return sum(STREAMS[name].channels for name in self.streams)

    def normalisation(self, stream: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation, per channel, that a stream's values in [0, 1] are normalised with.

        Args:
            stream: one of the network's.
        """
        row = STREAMS[stream]
        if row.input_batch_norm:
            return row.mean, row.std
        if self.mean is not None and self.std is not None:
            return self.mean, self.std
        # A video network's pictures are normalised as for Kinetics, also without its weights: one spec, one network.
        return (KINETICS_MEAN, KINETICS_STD) if is_video(self.backbone) else (row.mean, row.std)

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON and YAML can hold it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkSpec:
        """The spec that `to_dict` wrote, now or before it had as many fields: those with a default may be missing.

        Raises:
            ConfigError: keys are missing or unknown, or as for the spec itself.
        """
        accepted = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if not needed <= set(values) <= accepted:
            raise ConfigError(
                f"a network is described by {', '.join(sorted(values)) or 'nothing'} (accepted: "
                f"{', '.join(sorted(needed))}, and perhaps {', '.join(sorted(accepted - needed))}). Correct the description."
            )
        return cls(**values)


def size_options(spec: NetworkSpec) -> dict[str, Any]:
    """What `timm.create_model` must know of the input's size: transformers hold one position embedding per patch, convolutions take any."""
    config = timm.get_pretrained_cfg(spec.backbone)
    return {"img_size": spec.input_size} if config is not None and config.fixed_input_size else {}


def _check_backbone(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        raise ConfigError(
            f"backbone {name} is unknown to timm {timm.__version__} (close to it: {', '.join(close) or 'nothing'}). "
            "Choose one of timm.list_models()."
        )
    tags = [known.partition(".")[2] for known in timm.list_models(architecture, pretrained=True)]
    if tag and tag not in tags:
        raise ConfigError(
            f"backbone {name} has no weights of the tag {tag} in timm {timm.__version__} (accepted: "
            f"{', '.join(filter(None, tags)) or 'no tag'}). Choose another tag, or omit it."
        )


def _checked_normalisation(name: str, values: Any, *, limits: tuple[float, float]) -> tuple[float, ...] | None:
    if values is None:
        return None
    numbers = values if isinstance(values, (tuple, list)) else ()
    sound = all(type(value) in (int, float) and limits[0] <= value <= limits[1] for value in numbers)
    if len(numbers) != 3 or not sound:  # a comparison with what is not a number is false
        raise ConfigError(
            f"{name} is {values!r:.80} (accepted: three numbers from {limits[0]:g} to {limits[1]:g}, of red, green and blue). Correct it."
        )
    return tuple(float(value) for value in numbers)


def _own_normalisation(backbone: str) -> tuple[Any, Any]:
    """What the backbone's pretrained weights were trained with; (None, None) where timm does not say it for three colours."""
    if is_video(backbone):
        return KINETICS_MEAN, KINETICS_STD
    config = timm.get_pretrained_cfg(backbone)
    if config is None or not len(config.mean) == len(config.std) == 3:
        return None, None
    return tuple(config.mean), tuple(config.std)
