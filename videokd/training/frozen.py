"""Training of a frozen network's classifier, on features that are computed once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from videokd.datasets.dataset import JoinedClips
from videokd.errors import ConfigError, DataError
from videokd.messages import say
from videokd.models.backbone import Network
from videokd.models.video_backbone import is_video
from videokd.runs.session import Session
from videokd.training.frozen_head import FittedHead, fit_head
from videokd.training.record import Recorder
from videokd.training.run_state import RunState
from videokd.training.stored_outputs import StoredOutputs, body_sha256
from videokd.training.training_clips import TrainingClips
from videokd.training.validate import validate
from videokd.types import STREAMS

_INSTEAD = "Choose another backbone, train without --freeze, or, in distill, set data.stored_views to 0."


def freeze_body(network: Network) -> None:
    """Leaves only the classifier to be trained.

    Raises:
        ConfigError: it is a video network, whose features this cannot store, or its classifier is not made of linear layers.
    """
    _check_not_video(network)
    classifier = network.classifier
    layers = list(classifier.modules()) if isinstance(classifier, nn.Module) else []  # some have two classifiers
    if not layers or not all(isinstance(layer, (nn.Linear, nn.Sequential, nn.ReLU)) for layer in layers):
        raise _does_more(network)
    network.requires_grad_(False)
    network.classifier.requires_grad_(True)


def learn_head(state: RunState, network: Network, clips: TrainingClips, *, session: Session) -> None:
    """Fits the classifier of one frozen network to the features of all stored views, and writes what `learn` writes.

    Args:
        state: of the one network; it is in evaluation mode throughout, so BatchNorm statistics stay as they are.
        network: frozen by `freeze_body`.
        clips: to fit to, with stored views; those held out are only scored.
        session: the folder, the precision and the ranks.

    Raises:
        ConfigError: the backbone's features and classifier do not make its logits.
        DataError: features are not finite, or a file cannot be written.
    """
    progress = state.restore()
    if progress.history:
        say(f"{session.folder.path}: trained already.")
        return
    state.students.eval()
    features = stored_features(clips.fit, network, session, title="features")  # [N, V, S, D]
    parts = [(part.manifest, clip) for part in clips.fit.parts for clip in part.clips]
    label = torch.tensor([clip.label for _, clip in parts])
    device = session.precision.device
    fitted = fit_head(network.classifier, features.to(device), label.to(device), [clip.group for _, clip in parts])
    with Recorder(session, state.students, first_step=0, total_steps=1) as recorder:
        validation = validate(
            state.students, clips.held_out, session.precision, workers=clips.workers, ranks=session.ranks
        )
        progress.step = 1
        state.end_epoch(validation, patience=0, ranks=session.ranks)
        recorder.values(0, 0, _of_head(fitted))
        recorder.epoch(0, 0, 1, validation)
    state.save()
    say(f"{session.folder.path}: {_in_words(fitted, num_clips=len(label), num_views=features.shape[1])}")


def stored_features(clips: JoinedClips, network: Network, session: Session, *, title: str) -> Tensor:
    """What the classifier of a frozen network takes, for all stored views of all clips: float32 [N, V, S, D].

    All networks with the same body share it, whatever their classifiers say.

    Args:
        clips: with stored views.
        network: in evaluation mode, on the session's device.
        session: precision, device and ranks.
        title: of the progress bar.

    Raises:
        ConfigError: it is a video network, or the backbone's features and classifier do not make its logits.
        DataError: a file cannot be written, or a clip cannot be read.
    """
    width = _check_features(network, session)
    store = StoredOutputs(clips, network, {"output": "features", "body": body_sha256(network)}, session)
    of_view = (clips.parts[0].num_segments, width)
    return store.table(lambda batch: network.segment_features(batch.streams), of_view=of_view, title=title)


def _check_not_video(network: Network) -> None:
    if is_video(network.spec.backbone):
        raise ConfigError(
            f"features of {network.spec.backbone} cannot be stored, nor its body frozen (accepted: timm's networks). {_INSTEAD}"
        )


def _check_features(network: Network, session: Session) -> int:
    """The number of features, which must be finite. They and the classifier must be all there is: some backbones do more after pooling."""
    _check_not_video(network)
    size, device = network.spec.input_size, session.precision.device
    generator = torch.Generator().manual_seed(0)
    shapes = {name: (1, 2, STREAMS[name].channels, size, size) for name in network.spec.streams}
    streams = {name: torch.randint(256, of, dtype=torch.uint8, generator=generator) for name, of in shapes.items()}
    streams = {name: values.to(device) for name, values in streams.items()}
    if not isinstance(network.classifier, nn.Module):
        raise _does_more(network)
    with torch.no_grad():
        wanted = network(streams)
        features = network.segment_features(streams)
        found = network.classifier(features).mean(1)
    if not features.isfinite().all():
        raise DataError(
            f"backbone {network.spec.backbone}: its features are not finite: its weights are damaged, or too large for its precision. Start from "
            "other weights with --init."
        )
    if not torch.allclose(wanted, found, rtol=1e-3, atol=1e-3):
        raise _does_more(network)
    return features.shape[-1]


def _does_more(network: Network) -> ConfigError:
    return ConfigError(
        f"backbone {network.spec.backbone} does more than a linear classification of its pooled features, so these cannot be stored, nor its body "
        f"frozen (accepted: backbones such as resnet18 or tf_efficientnet_lite0). {_INSTEAD}"
    )


def _of_head(fitted: FittedHead) -> dict[str, float]:
    values = {"head/weight_decay": fitted.weight_decay}
    return values if fitted.held_out_top1 is None else values | {"head/held_out_top1": fitted.held_out_top1}


def _in_words(fitted: FittedHead, *, num_clips: int, num_views: int) -> str:
    how = (
        "not chosen, as groups of all classes cannot be held out"
        if fitted.held_out_top1 is None
        else f"on groups held out in turn it has {100 * fitted.held_out_top1:.1f} % top-1"
    )
    return f"classifier fitted to {num_views} views of {num_clips} clips; weight decay {fitted.weight_decay:g}, {how}."
