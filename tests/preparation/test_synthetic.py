from __future__ import annotations

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from videokd.errors import ConfigError, DataError
from videokd.preparation.folders import folder_layout
from videokd.preparation.synthetic import APPEARANCES, MOTIONS, Scenes, generate, generate_actions, render_clip


def rendered(appearance: str, motion: str, *, scene: int = 0, clip: int = 0, **settings: int) -> np.ndarray:
    return render_clip(
        appearance, motion, scene=np.random.default_rng(scene), clip=np.random.default_rng(clip), **settings
    )


def object_centres(frames: np.ndarray) -> np.ndarray:
    """[T, 2]: (x, y) of what differs from the middle of each corner's colour, by plain weighting."""
    border = np.concatenate([frames[:, :4].reshape(len(frames), -1, 3), frames[:, -4:].reshape(len(frames), -1, 3)], 1)
    weight = np.abs(frames - np.median(border, axis=1)[:, None, None]).sum(-1).astype(float)
    weight[weight < 120] = 0
    ys, xs = np.mgrid[: frames.shape[1], : frames.shape[2]]
    total = weight.sum((1, 2))
    return np.stack([(weight * xs).sum((1, 2)) / total, (weight * ys).sum((1, 2)) / total], axis=1)


@pytest.mark.parametrize("size", [32, 112, 128])
def test_clips_have_the_shape_asked_for(size: int) -> None:
    frames = rendered("dots", "spin", num_frames=5, size=size)
    assert (frames.shape, frames.dtype) == ((5, size, size, 3), np.uint8)


def test_same_seeds_same_clip_other_seeds_another() -> None:
    first = rendered("checks", "slide", num_frames=3)
    assert np.array_equal(first, rendered("checks", "slide", num_frames=3))
    assert not np.array_equal(first, rendered("checks", "slide", clip=1, num_frames=3))
    assert not np.array_equal(first, rendered("checks", "slide", scene=1, num_frames=3))


def test_classes_of_one_scene_share_their_background() -> None:
    corners = [rendered(a, m, num_frames=2)[0, :4, :4].mean((0, 1)) for a in APPEARANCES for m in MOTIONS]
    other = rendered("dots", "slide", scene=5, num_frames=2)[0, :4, :4].mean((0, 1))
    assert np.ptp(corners, axis=0).max() < 8
    assert np.abs(corners[0] - other).max() > 8


@pytest.mark.parametrize("appearance", APPEARANCES)
def test_motions_move_as_they_are_called(appearance: str) -> None:
    extents = {}
    for motion in MOTIONS:
        tracks = [object_centres(rendered(appearance, motion, scene=2, clip=clip)) for clip in range(4)]
        extents[motion] = np.median([np.ptp(track, axis=0) for track in tracks], axis=0)
    assert extents["slide"][0] > 3 * extents["slide"][1]
    assert extents["bounce"][1] > 3 * extents["bounce"][0]
    for turning in ("spin", "shake"):
        assert max(extents[turning]) < 0.5 * min(extents["slide"][0], extents["bounce"][1])
    for both in ("circle", "cross"):
        assert min(extents[both]) > 0.6 * extents["slide"][0]


def test_a_circle_is_round_and_a_cross_is_straight() -> None:
    spread = {}
    for motion in ("circle", "cross"):
        track = object_centres(rendered("checks", motion, scene=2, clip=1))
        variances = np.linalg.eigvalsh(np.cov(track.T))
        spread[motion] = variances[0] / variances[1]
    assert spread["circle"] > 0.5 > 0.1 > spread["cross"]


def test_one_frame_does_not_give_the_motion_away() -> None:
    """Where the object stands in single frames is distributed alike, whatever the motion."""
    spread = {}
    for motion in MOTIONS:
        centres = [object_centres(rendered("dots", motion, scene=2, clip=clip, num_frames=2))[0] for clip in range(60)]
        spread[motion] = np.array([np.mean(centres, axis=0), np.std(centres, axis=0)])
    for motion in MOTIONS[1:]:
        assert np.abs(spread[motion] - spread[MOTIONS[0]]).max() < 8


def test_generated_folder_is_a_dataset_with_whole_scenes_in_each_part(tmp_path: Path) -> None:
    out = generate(tmp_path / "out", groups=3, clips_per_group=1, num_frames=4, size=48)
    clips = folder_layout(out)
    assert len(clips) == 27
    classes = {f"{a}_{m}" for a in APPEARANCES[:3] for m in MOTIONS[:3]}
    assert {clip.class_name for clip in clips} == classes
    for split in range(3):
        tested = {clip.group.split("/")[1] for clip in clips if clip.splits[split] == "test"}
        assert len(tested) == 1  # the same scene in every class
    with av.open(str(out / clips[0].path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height, stream.average_rate) == ("h264", 48, 48, 25)
        assert "".join(PictureType(frame.pict_type).name for frame in container.decode(stream)) == "IPPP"


def test_generating_is_deterministic_and_resumes(tmp_path: Path) -> None:
    settings = {"seed": 3, "groups": 1, "clips_per_group": 1, "num_frames": 3, "size": 32}

    def digests(folder: Path) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.mp4"))}

    first, second = generate(tmp_path / "a", **settings), generate(tmp_path / "b", **settings)
    expected = digests(first)
    assert len(expected) == 9
    assert digests(second) == expected
    assert digests(generate(tmp_path / "c", **{**settings, "seed": 4})) != expected
    kept, gone = sorted(first.rglob("*.mp4"))[:2]
    before = kept.stat().st_mtime_ns
    gone.unlink()
    generate(first, **settings)
    assert digests(first) == expected
    assert kept.stat().st_mtime_ns == before


def test_actions_come_with_few_labels_many_clips_without_and_scenes_of_their_own_to_test_on(tmp_path: Path) -> None:
    settings = {"scenes": Scenes(labelled=2, unlabelled=3, tested=2), "num_frames": 3, "size": 32}
    out = generate_actions(tmp_path / "out", **settings)
    clips = folder_layout(out / "labelled", group_pattern=r"_(g\d+)_")
    assert {clip.class_name for clip in clips} == set(MOTIONS)
    parts = {part: [clip for clip in clips if clip.splits[0] == part] for part in ("train", "test")}
    assert {part: len(found) for part, found in parts.items()} == {"train": 2 * 3 * 6, "test": 2 * 6}
    scenes = {part: {clip.group for clip in found} for part, found in parts.items()}
    assert scenes == {"train": {"g01", "g02"}, "test": {"g06", "g07"}}
    unlabelled = [path.name for path in sorted((out / "unlabelled").iterdir())]
    assert unlabelled == [f"clip_{number:04d}.mp4" for number in range(1, 19)]
    files = list(out.rglob("*.mp4"))
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in files}) == len(files)
    before = {path: path.stat().st_mtime_ns for path in files}
    generate_actions(out, **settings)
    assert {path: path.stat().st_mtime_ns for path in files} == before
    with pytest.raises(DataError, match="has clips generated with other settings"):
        generate_actions(out, **settings | {"seed": 1})
    with pytest.raises(ConfigError, match=r"Scenes\(.*tested=0\) \(accepted: 1 to 99 each\)"):
        Scenes(tested=0)


def test_another_datasets_folder_is_refused(tmp_path: Path) -> None:
    generate(tmp_path, groups=1, clips_per_group=1, num_frames=2, size=32)
    with pytest.raises(DataError, match=r"has clips generated with other settings. Choose another folder"):
        generate(tmp_path, seed=1, groups=1, clips_per_group=1, num_frames=2, size=32)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/generated.json cannot be written \(.+\). Choose another folder"):
        generate(tmp_path / "file", groups=1, clips_per_group=1, num_frames=2, size=32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": 0}, r"groups 0, clips_per_group 3 \(accepted: 1 to 99 each\)"),
        ({"clips_per_group": 100}, r"groups 10, clips_per_group 100 \(accepted"),
        ({"num_frames": 1}, r"num_frames 1, size 112 \(accepted: two or more frames"),
        ({"size": 100}, r"num_frames 48, size 100 \(accepted: two or more frames; a multiple of 16 from 32 pixels\)"),
    ],
)
def test_generate_refuses_numbers(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


def test_render_refuses_unknown_names() -> None:
    with pytest.raises(
        ConfigError, match=r"'plaid', 'slide' \(accepted: stripes, checks, dots, .*; slide, bounce, spin, .*\)"
    ):
        rendered("plaid", "slide")
