"""Clips that show what another clip shows, such as re-encoded, resized or trimmed copies of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm

from videokd.codec.index import VideoIndex
from videokd.codec.reader import open_video
from videokd.datasets.cache import checked_sha256
from videokd.datasets.manifest import Clip, Manifest
from videokd.errors import DataError
from videokd.files import written_whole

# How copies are told from other clips of the same room. Hashes of single pictures (dHash, pHash) are no use with a fixed camera: people
# in one room differ less from each other than a picture from its own coarse encoding. What a copy has and others have not is that it
# explains how the clip changes. For pictures a_i of one clip and b_j of the other, 32 × 32 pixels in colour,
#
#     u = Σ_i min_j |a_i − b_j|² / Σ_i |a_i − mean of a|²
#
# is the share of the clip's changes that the other clip leaves unexplained: 0 for the same file, about 1 or more for unrelated clips.
# The b_j are dense, every second frame, because the I-frames of a trimmed copy are other moments. Of the two directions the smaller u
# counts, because a part does not explain the rest of the whole. Most pairs are excluded by the same comparison at 8 × 8 pixels.
_SIDE, _COARSE_SIDE = 32, 8
_STEP = 2  # from one picture to the next, in frames
_SPARSE = 6  # one of so many pictures is looked for in the other clip: one a GOP of 12
_MOST_PICTURES = 512  # of a clip, from its middle
#: Measured: docs/own-clips.md
_UNEXPLAINED, _COARSE_UNEXPLAINED = 0.3, 0.7

SmallPictures = npt.NDArray[np.uint8]
"""uint8 [T, 32, 32, 3]: every second position of a clip, RGB."""


def near_duplicates(
    clips: Sequence[tuple[Manifest, Clip]], others: Sequence[tuple[Manifest, Clip]], *, folder: Path | None
) -> list[tuple[Clip, Clip]]:
    """Those of the clips that show what one of the others shows.

    Args:
        clips: to look for, each with the manifest that has its folder.
        others: to look in.
        folder: where small pictures of the clips are kept, by content, for the next time; None: nowhere.

    Returns:
        Pairs of a clip and one of the others.

    Raises:
        DecodeError: a clip cannot be read.
        DataError: a picture file cannot be written.
    """
    if not clips or not others:
        return []
    bar = tqdm([*clips, *others], desc="compare clips", unit="clip", disable=None, delay=2)
    pictures = [_small_pictures(manifest, clip, folder) for manifest, clip in bar]
    ours, theirs = pictures[: len(clips)], pictures[len(clips) :]
    coarse = _unexplained(*([_flat(each, _COARSE_SIDE) for each in part] for part in (ours, theirs)))
    found = []
    for number, row in enumerate(coarse):
        copied = _most_alike(ours[number], theirs, row)
        if copied is not None:
            found.append((clips[number][1], others[copied][1]))
    return found


def copied_from(
    ours: SmallPictures, theirs: Sequence[SmallPictures], *, unexplained: float = _UNEXPLAINED
) -> int | None:
    """Which of some clips shows what a clip shows.

    Args:
        ours: of the clip.
        theirs: of the others.
        unexplained: the share u of the clip's changes that a near-duplicate leaves unexplained is smaller.

    Returns:
        The number of the most alike among those that are near-duplicates; None if none is.
    """
    coarse = _unexplained([_flat(ours, _COARSE_SIDE)], [_flat(pictures, _COARSE_SIDE) for pictures in theirs])[0]
    return _most_alike(ours, theirs, coarse, unexplained)


def _most_alike(
    ours: SmallPictures, theirs: Sequence[SmallPictures], coarse: np.ndarray, unexplained: float = _UNEXPLAINED
) -> int | None:
    candidates = np.flatnonzero(coarse < _COARSE_UNEXPLAINED)
    if not len(candidates):
        return None
    fine = _unexplained([_flat(ours, _SIDE)], [_flat(theirs[int(at)], _SIDE) for at in candidates])[0]
    return int(candidates[fine.argmin()]) if fine.min() < unexplained else None


def _unexplained(ours: Sequence[npt.NDArray[np.float32]], theirs: Sequence[npt.NDArray[np.float32]]) -> np.ndarray:
    """[len(ours), len(theirs)]: u of each pair, in the better of the two directions."""
    one_way, other_way = _one_way(ours, theirs), _one_way(theirs, ours)
    return np.minimum(one_way, other_way.T)


def _one_way(clips: Sequence[npt.NDArray[np.float32]], others: Sequence[npt.NDArray[np.float32]]) -> np.ndarray:
    dense = np.concatenate(others)  # [T of all, D]
    squares = (dense**2).sum(1)
    starts = np.cumsum([0, *map(len, others[:-1])])
    rows = []
    for clip in clips:
        sparse = clip[::_SPARSE]
        distance = (sparse**2).sum(1)[:, None] + squares - 2 * sparse @ dense.T
        nearest = np.minimum.reduceat(distance.clip(min=0), starts, axis=1)  # [sparse, len(others)]
        changes = ((sparse - clip.mean(0)) ** 2).sum()
        rows.append(nearest.sum(0) / max(float(changes), 1e-6))
    return np.stack(rows)


def _flat(pictures: SmallPictures, side: int) -> npt.NDArray[np.float32]:
    """[T, 32, 32, 3] to float32 [T, side · side · 3], 0 to 1."""
    cell = _SIDE // side
    cells = pictures.reshape(len(pictures), side, cell, side, cell, 3)
    means: npt.NDArray[np.float32] = cells.mean((2, 4), dtype=np.float32) / np.float32(255)
    return means.reshape(len(pictures), -1)


def _small_pictures(manifest: Manifest, clip: Clip, folder: Path | None) -> SmallPictures:
    """Every second position of a clip as uint8 [T, 32, 32, 3]; kept in the folder."""
    if folder is None:
        return _decoded(manifest, clip)
    content = checked_sha256(clip.sha256)
    file = folder / f"frames-{_STEP}x{_SIDE}" / content[:2] / f"{content}.npy"
    if file.exists():
        try:
            kept: SmallPictures = np.load(file)
            if kept.dtype != np.uint8 or kept.shape != (max(len(kept), 1), _SIDE, _SIDE, 3):
                raise ValueError(f"{kept.dtype} {list(kept.shape)}")
            return kept
        except (ValueError, EOFError, TypeError) as error:  # TypeError: of a single number, which has no length
            raise DataError(
                f"{file} is damaged ({error}). Delete it; it is written again when it is needed."
            ) from error
    pictures = _decoded(manifest, clip)
    with written_whole(file) as aside, aside.open("wb") as target:
        np.save(target, pictures)
    return pictures


def small_pictures(path: Path, index: VideoIndex | None = None) -> SmallPictures:
    """Every second position of a clip, and of a long one those in its middle.

    Args:
        path: of the clip.
        index: of the clip; None: it is scanned.

    Raises:
        DecodeError: it cannot be read.
    """
    pictures = []
    with open_video(path, index=index) as video:
        places = [(gop.index, at) for gop in video.gops for at in range(gop.num_positions)][::_STEP]
        first = max((len(places) - _MOST_PICTURES) // 2, 0)
        for gop, position in places[first : first + _MOST_PICTURES]:
            frame = video.read(gop=gop, position=position, streams=("frame",)).frame
            channels_first = torch.from_numpy(frame).permute(2, 0, 1)
            small = transforms.resize(channels_first, [_SIDE, _SIDE], antialias=True)
            pictures.append(small.permute(1, 2, 0).numpy())
    return np.stack(pictures)


def _decoded(manifest: Manifest, clip: Clip) -> SmallPictures:
    return small_pictures(manifest.file(clip), VideoIndex.from_json(clip.index))
