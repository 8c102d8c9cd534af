"""What a run's networks start from: nothing, ImageNet, a file, or another run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from videokd.errors import ConfigError
from videokd.files import sha256_of
from videokd.messages import say
from videokd.models.backbone import Network
from videokd.models.initial_weights import ENDINGS, imagenet_weights, weights_of_file
from videokd.models.network_spec import NetworkSpec
from videokd.models.transfer import InitialWeights, weights_of_network
from videokd.runs.run_folder import RunFolder, TrainedRun, load_run
from videokd.runs.trained_on import InitialSource, TrainedOn


@dataclass(frozen=True)
class Initial:
    """The start of a run's networks.

    Args:
        weights: {network: what it starts from}; those that start at random are missing, and all of a run that is resumed.
        sources: {network: which weights these are}, for the run's record.
        runs: {network: the run that they are from}.
        fitted: sha256 of clips that the weights of a resumed run were fitted to, according to its record.
    """

    weights: Mapping[str, InitialWeights] = field(default_factory=dict)
    sources: Mapping[str, InitialSource] = field(default_factory=dict)
    runs: Mapping[str, TrainedRun] = field(default_factory=dict)
    fitted: frozenset[str] = frozenset()


def load_initial(given: Mapping[str, str], specs: Mapping[str, NetworkSpec], *, out: str) -> Initial:
    """Loads the weights that a run's networks start from.

    A run that is resumed has its weights in its checkpoint: what it started from is compared by content where it is still there,
    and need not be there.

    Args:
        given: {network: none, imagenet, a file, or a run folder}.
        specs: {network: its spec}.
        out: the folder of the run.

    Raises:
        ConfigError: weights are missing, damaged or of another backbone, or a setting means none of these.
        DataError: the folder of a run is damaged.
    """
    chosen = {name: source for name, source in given.items() if source != "none"}
    folder = RunFolder(Path(out))
    if not chosen:
        return Initial()
    if folder.checkpoint.is_file():
        return _of_resumed(folder, chosen)
    weights: dict[str, InitialWeights] = {}
    runs: dict[str, TrainedRun] = {}
    for name, source in chosen.items():
        path = Path(source)
        if source == "imagenet":
            weights[name] = imagenet_weights(specs[name])
        elif path.is_dir() and RunFolder(path).config.is_file():
            runs[name] = load_run(path)
            weights[name] = _weights_of_run(runs[name], specs[name], name=name)
        elif path.suffix in ENDINGS or path.is_file():
            weights[name] = weights_of_file(path, specs[name])
        else:
            what = "is a folder, but not of a run" if path.is_dir() else "is none of these"
            raise ConfigError(
                f"init: {source or 'nothing'} {what} (accepted: none, imagenet, a file of weights such as {', '.join(ENDINGS)}, or the "
                "folder of a run). Check the path."
            )
        say(f"{name} starts from {source} (sha256 {weights[name].sha256[:12]}…).")
    return Initial(weights, {n: InitialSource(given[n], w.sha256) for n, w in weights.items()}, runs)


def _of_resumed(folder: RunFolder, chosen: Mapping[str, str]) -> Initial:
    before = TrainedOn.read(folder.path)
    if before is None or not before.initial:  # of an earlier version: only its settings can be compared
        return Initial()
    sources = {}
    for name, source in chosen.items():
        known = before.initial.get(name, InitialSource("", ""))
        file = RunFolder(Path(source)).best if Path(source).is_dir() else Path(source)
        if source != "imagenet" and file.is_file():
            sources[name] = InitialSource(source, sha256_of(file))
        else:
            sources[name] = known if source == known.source else InitialSource(source, "")
    return Initial(sources=sources, fitted=before.by_teachers)


def _weights_of_run(run: TrainedRun, spec: NetworkSpec, *, name: str) -> InitialWeights:
    members = run.students.members
    if name not in members and len(members) > 1:
        raise ConfigError(
            f"init: {run.path} has several networks ({', '.join(members)}), and none is called {name}. Name the student like one of them, or "
            "give a run with one network."
        )
    network = members[name] if name in members else next(iter(members.values()))
    assert isinstance(network, Network)
    theirs, ours = (backbone.partition(".")[0] for backbone in (network.spec.backbone, spec.backbone))
    if theirs != ours:
        raise ConfigError(
            f"init: {name} has the backbone {spec.backbone}, {run.path} has {network.spec.backbone} (accepted: the same). Choose "
            f"`backbone` {network.spec.backbone}, or another run."
        )
    return weights_of_network(network, source=str(run.path), sha256=run.weights, class_names=run.students.class_names)
