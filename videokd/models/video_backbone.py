"""torchvision's video networks as backbones: a clip of T frames to one set of logits."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from videokd.errors import ConfigError
from videokd.models.pretrained import answers

#: What marks these backbones in a spec, in front of torchvision's name.
PREFIX = "video:"

# Of every one of torchvision's Kinetics-400 weights for them: mean and deviation of RGB in [0, 1].
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)

# How torchvision's state dicts call the classifier.
_CLASSIFIERS = ("fc.", "classifier.")

#: {backbone: the fewest frames it takes}. S3D halves time three times, the last time without padding.
FEWEST_FRAMES: Mapping[str, int] = {"r3d_18": 1, "mc3_18": 1, "r2plus1d_18": 1, "s3d": 5}


def is_video(backbone: str) -> bool:
    """Whether a backbone's name is that of a video network.

    >>> is_video("video:r2plus1d_18"), is_video("resnet18")
    (True, False)
    """
    return backbone.startswith(PREFIX)


def check_video_backbone(backbone: str) -> None:
    """ConfigError unless the backbone, with its prefix, is one of those in `FEWEST_FRAMES`."""
    name = backbone.removeprefix(PREFIX)
    if name not in FEWEST_FRAMES:
        close = difflib.get_close_matches(name, FEWEST_FRAMES, n=1)
        accepted = ", ".join(f"{PREFIX}{known}" for known in FEWEST_FRAMES)
        hint = f"Did you mean {PREFIX}{close[0]}?" if close else "Choose one of them."
        raise ConfigError(f"backbone {backbone} is unknown (accepted: {accepted}). {hint}")


class VideoBackbone(nn.Module):
    """A video network whose stem takes any number of channels, and whose classifier has K classes.

    ResNet-3D, MC3 and R(2+1)D with 18 layers (Tran et al. 2018) and S3D (Xie et al. 2018), built by torchvision. Features
    are averaged over time and space before the classifier; for S3D torchvision slides a window of 2 × 7 × 7 first,
    which is the same for the 16 frames of 224 pixels that its weights are made for.

    Args:
        backbone: `video:` and torchvision's name.
        num_channels: C.
        num_classes: K.
        state: of torchvision's network, to start from, of three colours; its classifier is not used.
        dropout: share of the features dropped before the classifier.

    Raises:
        ConfigError: the backbone is unknown.
        RuntimeError: the state is of another network.

    >>> import torch
    >>> VideoBackbone("video:mc3_18", num_channels=3, num_classes=5).eval()(torch.zeros(1, 3, 4, 32, 32)).shape
    torch.Size([1, 5])
    """

    def __init__(
        self,
        backbone: str,
        *,
        num_channels: int,
        num_classes: int,
        state: Mapping[str, Tensor] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_video_backbone(backbone)
        self.fewest_frames = FEWEST_FRAMES[backbone.removeprefix(PREFIX)]
        #: As timm's: which modules are the classifier and the first layer, for groups of parameters.
        self.default_cfg = {"classifier": "classifier", "first_conv": "stem"}
        whole = get_model(backbone.removeprefix(PREFIX), weights=None)
        if state is not None:
            own = {name: values for name, values in whole.state_dict().items() if name.startswith(_CLASSIFIERS)}
            whole.load_state_dict({n: t for n, t in state.items() if not n.startswith(_CLASSIFIERS)} | own)
        if hasattr(whole, "features"):  # S3D
            self.stem, self.stages = whole.features[0], whole.features[1:]
            width = whole.classifier[1].in_channels
        else:
            self.stem = whole.stem
            self.stages = nn.Sequential(whole.layer1, whole.layer2, whole.layer3, whole.layer4)
            width = whole.fc.in_features
        if num_channels != 3:
            _replace_first_layer(self.stem, num_channels=num_channels)
        self.head_hidden_size = width
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """[B, C, T, H, W], normalised, to logits [B, K]; raises what `forward_features` does."""
        return self.forward_head(self.forward_features(clips))

    def forward_features(self, clips: Tensor) -> Tensor:
        """[B, C, T, H, W], normalised, to pooled features [B, D].

        Raises:
            ConfigError: there are fewer frames than the network needs.
        """
        if clips.shape[2] < self.fewest_frames:
            raise ConfigError(
                f"a clip has {clips.shape[2]} segments (accepted: {self.fewest_frames} or more for this video network). "
                f"Pass `--data.num_segments {max(self.fewest_frames, 8)}`, or choose video:r2plus1d_18."
            )
        features: Tensor = self.stages(self.stem(clips)).mean(dim=(2, 3, 4))  # [B, D]
        return features

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """The features as the classifier gets them, or the logits: [B, D] to [B, D] or [B, K]."""
        dropped: Tensor = self.dropout(features)
        return dropped if pre_logits else self.classifier(dropped)

    def get_classifier(self) -> nn.Linear:
        """The last layer, under the name that timm's backbones have for it."""
        return self.classifier


def kinetics_state(backbone: str) -> Mapping[str, Tensor]:
    """torchvision's Kinetics-400 weights of a video network, from its cache or its server.

    Args:
        backbone: `video:` and torchvision's name.

    Raises:
        ConfigError: they are not on this machine and cannot be fetched.
    """
    weights = get_model_weights(backbone.removeprefix(PREFIX)).DEFAULT  # type: ignore[attr-defined]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        if not cached.is_file() and not answers(weights.url):
            raise OSError(f"{weights.url} does not answer")
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a wrong hash is a RuntimeError
        raise ConfigError(
            f"the pretrained weights of {backbone} are not on this machine and cannot be fetched. Pass `--init none` to start from "
            f"random weights, pass them as a file (`--init FILE`), or copy {weights.url} into $TORCH_HOME/hub/checkpoints from a "
            "machine with a network."
        ) from error
    return state


def _replace_first_layer(stem: nn.Module, *, num_channels: int) -> None:
    """Gives the stem's first convolution another number of channels, with random filters."""
    conv = next(module for module in stem.modules() if isinstance(module, nn.Conv3d))
    conv.in_channels = num_channels
    out_channels, _, *kernel = conv.weight.shape
    conv.weight = nn.Parameter(conv.weight.new_empty(out_channels, num_channels, *kernel))
    conv.reset_parameters()
