"""What a network says of the stored views of clips: computed once, kept beside the decoded clips, read by every later run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from videokd.datasets.batches import stored_view_batches
from videokd.datasets.cache import DecodedCache
from videokd.datasets.dataset import ClipDataset, JoinedClips
from videokd.errors import DataError
from videokd.files import written_whole
from videokd.models.backbone import Network
from videokd.models.network_spec import names_of
from videokd.models.transfer import state_sha256
from videokd.runs.session import Session
from videokd.types import Batch

_VERSION = 1


class StoredOutputs:
    """One kind of output of one network for the V stored views of clips.

    They lie in a folder beside the decoded clips, one file a clip, named by the clip's content. The folder's name follows from the
    network's weights and from everything that a view depends on, so runs with other seeds, splits and labels share it, and so do
    runs with and without unlabelled clips. An interrupted run resumes with the clips that are missing.

    Args:
        clips: of the run; they say how clips are read, and how many views there are.
        network: what its input is: streams and size.
        what: names the output and the weights, as JSON values.
        session: precision, device and ranks; the ranks share the work.

    Raises:
        DataError: a file cannot be written.
    """

    def __init__(self, clips: JoinedClips, network: Network, what: Mapping[str, Any], session: Session) -> None:
        self._parts = tuple(_as_seen_by(network, part) for part in clips.parts)
        self._session = session
        first = self._parts[0]
        assert first.cache is not None, "stored views need a cache, which the settings see to"
        views = {
            "version": _VERSION,
            "views": first.stored_views,
            "segments": first.num_segments,
            "positions": first.cache.num_positions,
            "streams": first.streams,
            "size": first.input_size,
            "precision": [session.precision.name, session.precision.device.type],
        }
        self._files: list[Path] = []
        for part in self._parts:  # labelled and unlabelled clips: whether they may be mirrored can differ
            of_part = [views | {"flip": [part.manifest.flip]}, dict(what)]
            key = hashlib.sha256(json.dumps(of_part, sort_keys=True).encode()).hexdigest()
            folder = first.cache.folder / "outputs" / key[:32]
            self._files += [folder / clip.sha256[:2] / f"{clip.sha256}.npy" for clip in part.clips]
        self._num_views = first.stored_views

    def table(self, compute: Callable[[Batch], Tensor], *, of_view: tuple[int, ...], title: str) -> Tensor:
        """The outputs for all clips; those that are missing are computed first.

        Args:
            compute: a batch of V views, on the device, to [V, …].
            of_view: shape of the output for one view; a stored file of another shape is computed again.
            title: of the progress bar.

        Returns:
            float32 [N, V, …], on the CPU.

        Raises:
            DataError: a file cannot be written, a clip cannot be read, or outputs are not finite.
        """
        shape = (self._num_views, *of_view)
        ranks = self._session.ranks
        # Ranks divide all clips, not the missing ones: one may have written some before another looks what is missing
        own = range(ranks.rank, len(self._files), ranks.num_ranks)
        self._compute([number for number in own if _read(self._files[number], shape) is None], compute, title=title)
        ranks.barrier()
        arrays = [_read(file, shape) for file in self._files]
        lost = next((file for file, array in zip(self._files, arrays, strict=True) if array is None), None)
        if lost is not None:
            raise DataError(f"{lost} was written, but cannot be read back. Check the disk of --data.cache.")
        table = torch.from_numpy(np.stack([array for array in arrays if array is not None]))
        if not table.isfinite().all():
            raise DataError(
                f"{title}: some outputs in {self._files[0].parents[1]} are not finite: the network's weights are damaged, or too large for the "
                "precision. Pass `--precision fp32`, or delete that folder to compute them again."
            )
        return table

    def _compute(self, missing: Sequence[int], compute: Callable[[Batch], Tensor], *, title: str) -> None:
        ranks, precision = self._session.ranks, self._session.precision
        batches = stored_view_batches(JoinedClips(self._parts), missing, workers=0)
        shown = None if ranks.is_first else True
        bar = tqdm(batches, total=len(missing), desc=title, unit="clip", disable=shown, delay=2)
        for number, batch in zip(missing, bar, strict=True):
            with torch.no_grad(), precision.autocast():
                output = compute(batch.to(precision.device)).float().cpu().numpy()
            with written_whole(self._files[number]) as aside, aside.open("wb") as file:
                np.save(file, output)


def body_sha256(network: Network) -> str:
    """SHA-256 of all weights but the classifier's, and of the architecture: others can have weights of the same names and shapes.

    Args:
        network: any of timm's.
    """
    heads = tuple(f"backbone.{name}." for name in names_of(network.backbone.default_cfg.get("classifier")))
    body = {name: values for name, values in network.state_dict().items() if not name.startswith(heads)}
    architecture = network.spec.backbone.partition(".")[0]
    whole = [architecture, network.spec.mean, network.spec.std, state_sha256(body)]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _as_seen_by(network: Network, part: ClipDataset) -> ClipDataset:
    """The same clips and views as the network's input."""
    assert part.cache is not None
    cache = DecodedCache(part.cache.folder, part.cache.num_positions, network.spec.input_size)
    return replace(part, streams=network.spec.streams, input_size=network.spec.input_size, cache=cache)


def _read(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """None where there is no such file, or one that was damaged: then it is computed again."""
    try:
        array = np.load(file)
    except (OSError, ValueError, EOFError, BadZipFile):
        return None
    sound = isinstance(array, np.ndarray) and array.dtype == np.float32 and array.shape == shape
    return array if sound else None
