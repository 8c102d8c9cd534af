"""From the weights of a trained network to the start of a new one, which may see other streams and know other classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from videokd.errors import ConfigError
from videokd.models.backbone import Network
from videokd.models.network_spec import names_of
from videokd.models.temporal_shift import ShiftedConv
from videokd.types import STREAMS

#: Weights on pictures of three colours: one of the streams that are pictures, whichever it is called.
PICTURES = ("iframe",)
#: Share of the response's variance, relative to the part that is kept, that all added parts have together.
_ADDED_VARIANCE = 0.01


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """Weights of a trained backbone that new networks start from.

    Args:
        source: imagenet, or the file or run folder, for messages and the run's record.
        sha256: of the file, of a run's best.pt, or of the values themselves where no file was named.
        backbone: the trained module: timm's, or a `VideoBackbone`.
        streams: whose channels its first layer takes, in this order.
        inputs: {stream: its BatchNorm on the input}, where there are some.
        class_names: of the classifier's outputs; empty where they are not known, and the classifier then is not used.
        normalisation: mean and std of pictures, as in the spec of the network; None: the new network's own.
    """

    source: str
    sha256: str
    backbone: Any
    streams: tuple[str, ...] = PICTURES
    inputs: Mapping[str, nn.Module] = field(default_factory=dict)
    class_names: Sequence[str] = ()
    normalisation: tuple[Any, Any] | None = None


def weights_of_network(network: Network, *, source: str, sha256: str, class_names: Sequence[str]) -> InitialWeights:
    """A trained network of a run as initial weights.

    Args:
        network: the trained network.
        source: the run's folder.
        sha256: of its best.pt.
        class_names: of its outputs.
    """
    spec = network.spec
    sees_pictures = any(not STREAMS[name].input_batch_norm for name in spec.streams)
    return InitialWeights(
        source,
        sha256,
        network.backbone,
        streams=spec.streams,
        inputs=dict(network.inputs.items()),
        class_names=tuple(class_names),
        normalisation=(spec.mean, spec.std) if sees_pictures else None,
    )


@torch.no_grad()
def start_from(network: Network, weights: InitialWeights, *, class_names: Sequence[str]) -> None:
    """Gives a new network the weights of a trained one; what has no counterpart there keeps its random start.

    Everything but first layer and classifier is copied. The first layer's filters are adapted by `adapted_filters`. Rows of the
    classifier whose class has the same name are copied, as is a hidden layer of equal size, and the BatchNorm on the input of equal streams.
    Pictures are normalised as they were for the trained network.

    Args:
        network: changed in place; exits are no part of it.
        weights: of the same backbone.
        class_names: of the network's outputs.

    Raises:
        ConfigError: the weights are of another architecture.
    """
    new, old = _plain_state(network.backbone), _plain_state(weights.backbone)
    classifiers = tuple(f"{name}." for name in _classifier_names(network.backbone))
    body = [{n: t for n, t in state.items() if not n.startswith(classifiers)} for state in (new, old)]
    first = set(_first_filters(network.backbone))
    _check_same_names(*body, first=first, weights=weights, backbone=network.spec.backbone)
    for name, values in body[0].items():
        source = body[1][name]
        if name in first and source.shape[1] == sum(STREAMS[stream].channels for stream in weights.streams):
            source = adapted_filters(source, streams=weights.streams, wanted=network.spec.streams)
        if source.shape != values.shape:
            raise ConfigError(
                f"init: the first layer of {network.spec.backbone} cannot be adapted from {', '.join(weights.streams)} to "
                f"{', '.join(network.spec.streams)}: it mixes pixels and channels. Choose another backbone, such as resnet18."
            )
        values.copy_(source)
    for stream, module in network.inputs.items():
        if stream in weights.inputs:
            module.load_state_dict(weights.inputs[stream].state_dict())
    if weights.normalisation is not None:
        network.set_normalisation(*weights.normalisation)
    for name in _classifier_names(network.backbone):
        _copy_rows(network.backbone, weights, name, class_names=class_names)


def adapted_filters(filters: Tensor, *, streams: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """A first layer's filters for other streams than they were trained on.

    A stream that the filters were trained on keeps its own. Without it the first stream of pictures (iframe, rgb) takes those of the
    other one. What is kept is not changed at all, so that a network that sees I-frames and more responds to an I-frame as before. All
    other streams are added parts. Each starts from the filters of pictures (or of whatever was trained, in the table's order): as they are
    for as many channels, such as residuals, and otherwise as their mean over channels, times old over new channels, which keeps the
    size of the response: 3/2 for motion.

    Added parts are scaled by one factor. Inputs have a variance of about 1 in every stream, by normalisation or BatchNorm, and parts
    are added up, so n parts as they are would give n + 1 times the variance, which the BatchNorm behind the first layer does not
    expect, and the pretrained features would drown. All added parts together have a tenth of the kept part's size (1/(10√n) each): on
    frames of 30 clips EfficientNet-Lite0 still gives 70 % of them the class that it gives the I-frame (13 % with timm's repetition
    of the filters, 30 % with a half instead of a tenth). The gradient of a filter does not depend on its size, so they learn from the first
    step on. Without a kept part the factor is 1/√n, and 1 for a single stream.

    Args:
        filters: [O, C, …], 2-D or 3-D, C the channels of `streams`.
        streams: that they were trained on, in the order of their channels.
        wanted: the streams of the new network, in their order.

    Returns:
        [O, C', …].

    >>> filters = torch.ones(1, 3, 1, 1)
    >>> adapted_filters(filters, streams=["iframe"], wanted=["motion", "iframe"]).flatten()
    tensor([0.1500, 0.1500, 1.0000, 1.0000, 1.0000])
    """
    own = dict(zip(streams, torch.split(filters, [STREAMS[name].channels for name in streams], dim=1), strict=True))
    pictures = {name: part for name, part in own.items() if not STREAMS[name].input_batch_norm}
    kept = {name: own[name] for name in wanted if name in own}
    heir = next((name for name in wanted if not STREAMS[name].input_batch_norm), None)
    if pictures and heir is not None and not pictures.keys() & kept.keys():
        kept[heir] = next(iter(pictures.values()))
    base = next(iter((pictures or own).values()))
    added = len([name for name in wanted if name not in kept])
    factor = ((_ADDED_VARIANCE if kept else 1) / max(added, 1)) ** 0.5
    parts = [kept[name] if name in kept else _for_channels(base, STREAMS[name].channels) * factor for name in wanted]
    return torch.cat(parts, dim=1)


def _for_channels(filters: Tensor, channels: int) -> Tensor:
    """[O, C, …] to [O, C', …]: as they are for as many channels, else their mean, times C/C'."""
    if filters.shape[1] == channels:
        return filters
    mean = filters.mean(dim=1, keepdim=True) * (filters.shape[1] / channels)
    return mean.repeat_interleave(channels, dim=1)


def _plain_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The state under the names that it has without temporal shifts; changing a tensor changes the module."""
    wrapped = [name for name, module in backbone.named_modules() if isinstance(module, ShiftedConv)]
    state = {}
    for name, values in backbone.state_dict().items():
        inside = next((w for w in wrapped if name.startswith(f"{w}.conv.")), None)
        state[name if inside is None else f"{inside}.{name.removeprefix(f'{inside}.conv.')}"] = values
    return state


def _check_same_names(
    new: Mapping[str, Tensor], old: Mapping[str, Tensor], *, first: set[str], weights: InitialWeights, backbone: str
) -> None:
    for name in [*new, *old]:
        shapes = [list(state[name].shape) if name in state else "missing" for state in (old, new)]
        if name in first and "missing" not in shapes:
            shapes = [shape[:1] + shape[2:] for shape in shapes]  # type: ignore[operator]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"init: {weights.source} does not fit {backbone}: {name} is {shapes[0]} there, {shapes[1]} here. Choose the backbone and, "
                "for transformers, the input size that the weights were trained with."
            )


def _classifier_names(backbone: Any) -> tuple[str, ...]:
    names = backbone.default_cfg.get("classifier")
    return names_of(names)


def _first_filters(backbone: Any) -> list[str]:
    """Names of the weights that see the input's channels."""
    names = backbone.default_cfg.get("first_conv") or ()
    found = []
    for name in (names,) if isinstance(names, str) else names:
        layer = backbone.get_submodule(name)
        inner = next((n for n, m in layer.named_modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))), None)
        if inner is not None:
            found.append(".".join(filter(None, (name, inner, "weight"))))
    return found


def _copy_rows(backbone: Any, weights: InitialWeights, name: str, *, class_names: Sequence[str]) -> None:
    """The rows of equally named classes of one classifier, and the hidden layers before it, if these fit."""
    places = {known: row for row, known in enumerate(weights.class_names)}
    pairs = [(new, places[known]) for new, known in enumerate(class_names) if known in places]
    heads = [list(_linear_layers(module.get_submodule(name))) for module in (backbone, weights.backbone)]
    shapes = [[layer.weight.shape for layer in head[:-1]] + [head[-1].in_features for _ in head[-1:]] for head in heads]
    if not pairs or not all(heads) or shapes[0] != shapes[1]:
        return
    for layer, trained in zip(heads[0][:-1], heads[1][:-1], strict=True):
        layer.load_state_dict(trained.state_dict())
    rows, trained_rows = (list(numbers) for numbers in zip(*pairs, strict=True))
    last, trained = heads[0][-1], heads[1][-1]
    last.weight[rows] = trained.weight[trained_rows]
    if last.bias is not None and trained.bias is not None:
        last.bias[rows] = trained.bias[trained_rows]


def _linear_layers(head: nn.Module) -> list[nn.Linear]:
    return [module for module in head.modules() if isinstance(module, nn.Linear)]


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values of a state dict, in the order of names.

    Args:
        state: {name: values}, on any device.
    """
    digest = hashlib.sha256()
    for name, values in sorted(state.items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
