"""Generated clips: a textured object moves over a textured, slowly drifting background.

An I-frame shows the texture and not the motion; motion vectors show the motion and not the texture: object, place, size, angle
and colours have the same distribution whatever the motion, and speed and path have the same distribution whatever the texture.

`generate` combines them, so that no single stream tells all classes apart. `generate_actions` gives each action a motion and a
texture of its own, as people who play the violin hold violins: each stream can tell the action, but motion looks alike in all
scenes and is learned from a few clips, while textures need many.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from videokd.codec.mp4_writer import Encoding
from videokd.codec.transcode import encode
from videokd.errors import ConfigError, DataError

Appearance = Literal["stripes", "checks", "dots", "rings", "bricks", "waves"]
Motion = Literal["slide", "bounce", "spin", "circle", "cross", "shake"]
APPEARANCES: tuple[Appearance, ...] = get_args(Appearance)
MOTIONS: tuple[Motion, ...] = get_args(Motion)
_COMBINED = 3  # of each, in `generate`
_LABELLED_TAKES = 3  # of each action in a labelled scene

FRAME_RATE = 25.0
_SETTINGS_NAME = "generated.json"
_EXTENT = 48  # from the object's centre, pixels at size 112: it is transparent there
_FINENESS = 3
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# As clips come from elsewhere: one I-frame at the start. `prepare` gives them short GOPs.
_SOURCE_FORM = Encoding(codec="h264", gop=600, quality=20)

Floats = npt.NDArray[np.float32]


def generate(
    out: Path | str,
    *,
    seed: int = 0,
    groups: int = 10,
    clips_per_group: int = 3,
    num_frames: int = 48,
    size: int = 112,
) -> Path:
    """Write a dataset of nine classes: `<appearance>_<motion>/<appearance>_<motion>_gNN_cNN.mp4`, H.264, 25 a second.

    A group is a scene (background, its drift, noise) that all classes share; the layout `folder` keeps groups whole. The same
    arguments give the same clips; clips that are there already are left alone.

    Args:
        out: the folder to write.
        seed: of everything random.
        groups: scenes, 1 to 99.
        clips_per_group: of each class in each scene, 1 to 99.
        num_frames: of each clip.
        size: pixels of height and width; a multiple of 16.

    Returns:
        The folder, for `videokd prepare folder`.

    Raises:
        ConfigError: a number is out of its range.
        DataError: the folder holds clips of other settings, or cannot be written.
    """
    out = Path(out)
    if not 1 <= groups <= 99 or not 1 <= clips_per_group <= 99:
        raise ConfigError(f"groups {groups}, clips_per_group {clips_per_group} (accepted: 1 to 99 each).")
    _check_shape(num_frames, size)
    settings = {
        "seed": seed,
        "groups": groups,
        "clips_per_group": clips_per_group,
        "num_frames": num_frames,
        "size": size,
    }
    _note_settings(out / _SETTINGS_NAME, settings)

    def clip_of(appearance: Appearance, motion: Motion, group: int, clip: int) -> _Clip:
        name = f"{appearance}_{motion}"
        target = out / name / f"{name}_g{group:02d}_c{clip:02d}.mp4"
        return _Clip(target, appearance, motion, (seed, group), clip)

    wanted = product(APPEARANCES[:_COMBINED], MOTIONS[:_COMBINED], range(1, groups + 1), range(1, clips_per_group + 1))
    _make_all([clip_of(*each) for each in wanted], num_frames=num_frames, size=size)
    return out


def generate_actions(
    out: Path | str,
    *,
    seed: int = 0,
    labelled_scenes: int = 2,
    unlabelled_scenes: int = 30,
    tested_scenes: int = 27,
    num_frames: int = 36,
    size: int = 112,
) -> Path:
    """Write a few labelled clips, many without labels, and those to test on: `labelled/train/<action>/…`,
    `labelled/test/<action>/…` and `unlabelled/clip_NNNN.mp4`, H.264, 25 a second.

    There are six actions, named by their motions, each with an object of its own texture. No scene is in two parts. A labelled
    scene has three clips of each action, as somebody films who stands there anyway; the others have one.

    Args:
        out: the folder to write.
        seed: of everything random.
        labelled_scenes: to train on, 1 to 99.
        unlabelled_scenes: 1 to 99.
        tested_scenes: 1 to 99.
        num_frames: of each clip.
        size: pixels of height and width; a multiple of 16.

    Returns:
        The folder.

    Raises:
        ConfigError: a number is out of its range.
        DataError: the folder holds clips of other settings, or cannot be written.
    """
    out = Path(out)
    scenes = {"train": labelled_scenes, "unlabelled": unlabelled_scenes, "test": tested_scenes}
    if not all(1 <= number <= 99 for number in scenes.values()):
        raise ConfigError(f"scenes {scenes} (accepted: 1 to 99 each).")
    _check_shape(num_frames, size)
    _note_settings(out / _SETTINGS_NAME, {"seed": seed, **scenes, "num_frames": num_frames, "size": size})
    clips: list[_Clip] = []
    first_scene = 1
    for part, number in scenes.items():
        takes = range(1, _LABELLED_TAKES + 1 if part == "train" else 2)
        wanted = product(range(first_scene, first_scene + number), takes, zip(APPEARANCES, MOTIONS, strict=True))
        for count, (scene, take, (appearance, motion)) in enumerate(wanted, start=1):
            target = out / "labelled" / part / motion / f"{motion}_g{scene:02d}_c{take:02d}.mp4"
            if part == "unlabelled":
                target = out / part / f"clip_{count:04d}.mp4"
            clips.append(_Clip(target, appearance, motion, (seed, scene), take))
        first_scene += number
    _make_all(clips, num_frames=num_frames, size=size)
    return out


@dataclass(frozen=True)
class _Clip:
    """A clip to make: where to, what it shows, and the numbers that its scene and the clip in it are drawn from."""

    target: Path
    appearance: Appearance
    motion: Motion
    scene: tuple[int, ...]
    clip: int

    def make(self, *, num_frames: int, size: int) -> None:
        if self.target.exists():
            return
        scene = np.random.default_rng(self.scene)
        kind = (APPEARANCES.index(self.appearance), MOTIONS.index(self.motion))
        rng = np.random.default_rng([*self.scene, self.clip, *kind])
        frames = render_clip(self.appearance, self.motion, scene=scene, clip=rng, num_frames=num_frames, size=size)
        encode(frames, self.target, frame_rate=FRAME_RATE, encoding=_SOURCE_FORM)


def _make_all(clips: Sequence[_Clip], *, num_frames: int, size: int) -> None:
    """Renders what is missing; shows a bar at a terminal."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy and the encoder leave the interpreter free
        made = pool.map(partial(_Clip.make, num_frames=num_frames, size=size), clips)
        for _ in tqdm(made, total=len(clips), desc="generate", unit="clip", disable=None):
            pass


def render_clip(
    appearance: Appearance,
    motion: Motion,
    *,
    scene: np.random.Generator,
    clip: np.random.Generator,
    num_frames: int = 48,
    size: int = 112,
) -> npt.NDArray[np.uint8]:
    """Draw one clip.

    Args:
        appearance: the object's texture.
        motion: "slide" goes left and right, "bounce" up and down, "spin" turns, either way, "circle" goes round, "cross" goes along
            one of the diagonals, "shake" trembles.
        scene: decides background, drift and noise: the same state gives the same scene.
        clip: decides everything else.
        num_frames: T.
        size: H and W in pixels, a multiple of 16.

    Returns:
        uint8 [T, H, W, 3], RGB.

    Raises:
        ConfigError: appearance, motion, num_frames or size is none of these.
    """
    if appearance not in APPEARANCES or motion not in MOTIONS:
        raise ConfigError(
            f"{appearance!r}, {motion!r} (accepted: {', '.join(APPEARANCES)}; {', '.join(MOTIONS)}). Choose one of each."
        )
    _check_shape(num_frames, size)
    x, y, angle = _path(motion, clip, num_frames)
    thing = _draw_object(appearance, clip)  # [N, N, 4]
    seen = thing[_lookup(x, y, angle, size, thing.shape[0])]  # [T, H, W, 4]
    frames = np.stack(list(_background(scene, num_frames, size)))  # [T, H, W, 3]
    frames += (seen[..., :3] - frames) * seen[..., 3:]
    frames *= (1 + 0.04 * np.sin(np.arange(num_frames, dtype=np.float32) / 9))[:, None, None, None]
    frames += clip.standard_normal((num_frames, size, size, 1), np.float32) * np.float32(scene.uniform(1, 3))
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def _check_shape(num_frames: int, size: int) -> None:
    if num_frames < 2 or size < 32 or size % 16:
        raise ConfigError(
            f"num_frames {num_frames}, size {size} (accepted: two or more frames; a multiple of 16 from 32 pixels)."
        )


def _note_settings(path: Path, settings: dict[str, int]) -> None:
    try:
        if path.exists():
            if json.loads(path.read_text()) != settings:
                raise DataError(f"{path.parent} holds clips generated with other settings. Choose another folder.")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error}). Choose another folder.") from error


def _path(motion: Motion, clip: np.random.Generator, num_frames: int) -> tuple[Floats, Floats, Floats]:
    """Where the object's centre is (pixels from the picture's, at size 112) and how it is turned, at each frame.

    Places and angles are uniform whatever the motion: one frame does not give it away.
    """
    time = np.arange(num_frames)
    reach = 24.0
    x, y = (np.full(num_frames, clip.uniform(-reach, reach)) for _ in range(2))
    angle = np.full(num_frames, clip.uniform(0, 2 * np.pi))
    # Everything sways a little, so that no motion is the absence of another.
    x, y, angle = (
        values + extent * np.sin(time * clip.uniform(0.1, 0.2) + clip.uniform(0, 2 * np.pi))
        for values, extent in ((x, 1.0), (y, 1.0), (angle, 0.03))
    )
    # To and fro at constant speed: a triangle wave, which dwells nowhere.
    travelled = clip.uniform(0, 4 * reach) + clip.uniform(2.0, 3.2) * time
    to_and_fro = np.abs(travelled % (4 * reach) - 2 * reach) - reach
    turn = clip.choice([-1, 1]) * clip.uniform(0.07, 0.11) * time
    side = clip.choice([-1, 1])
    if motion in ("slide", "cross"):
        x += to_and_fro - x[0]
    if motion in ("bounce", "cross"):
        y += (to_and_fro if motion == "bounce" else side * to_and_fro) - y[0]
    if motion == "circle":
        radius = reach * np.sqrt(2 / 3)  # spreads as far as places drawn evenly from the square
        phase = travelled / radius * side
        x += radius * np.cos(phase) - x[0]
        y += radius * np.sin(phase) - y[0]
    if motion == "shake":
        x += 5 * np.sin(time * clip.uniform(0.9, 1.2))
        y += 5 * np.sin(time * clip.uniform(0.9, 1.2) + clip.uniform(0, 2 * np.pi))
    if motion == "spin":
        angle += turn
    return x.astype(np.float32), y.astype(np.float32), angle.astype(np.float32)


def _draw_object(appearance: Appearance, clip: np.random.Generator) -> Floats:
    """The object seen from the front, _FINENESS samples a pixel: [N, N, 4], RGB from 0 to 255 and opacity."""
    scale = np.float32(clip.uniform(0.85, 1.2))
    place = np.arange(-_EXTENT, _EXTENT, 1 / _FINENESS, dtype=np.float32) / scale
    along, across = place[None, :], place[:, None]
    one, other = _two_colours(clip)
    ink = _texture(appearance, along, across, clip)[..., None]
    surface = one + (other - one) * ink + (22 * _speckle(along, across, clip))[..., None]
    return np.concatenate([surface, _outline(along, across, clip)[..., None]], axis=2)


def _lookup(x: Floats, y: Floats, angle: Floats, size: int, samples: int) -> tuple[npt.NDArray[np.intp], ...]:
    """Row and column in the object's drawing for each pixel, [T, H, W] each; far pixels get the transparent edge."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(112 / size) - 56
    right = axis[None, None, :] - x[:, None, None]
    down = axis[None, :, None] - y[:, None, None]
    cosine, sine = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    places = (down * cosine - right * sine, right * cosine + down * sine)
    return tuple(np.clip((place + _EXTENT) * _FINENESS, 0, samples - 1).astype(np.intp) for place in places)


def _texture(appearance: Appearance, along: Floats, across: Floats, clip: np.random.Generator) -> Floats:
    """0 to 1, with edges about a pixel wide."""
    frequency = np.float32(2 * np.pi / clip.uniform(13, 16))
    shift_along, shift_across = clip.uniform(0, 2 * np.pi, 2).astype(np.float32)
    u, v = along * frequency + shift_along, across * frequency + shift_across
    if appearance == "stripes":
        wave = np.sin(u) + 0 * v
    elif appearance == "checks":
        wave = 1.4 * np.sin(u) * np.sin(v)
    elif appearance == "dots":
        wave = np.cos(u) + np.cos(v) - np.float32(0.9)
    elif appearance == "rings":
        wave = np.sin(frequency * np.hypot(along, across) + shift_along)
    elif appearance == "waves":
        wave = np.sin(u + np.float32(2.2) * np.sin(v))
    else:  # bricks: every other row is shifted by half a brick
        row = np.floor(v / np.float32(np.pi))
        wave = 3 * np.minimum(np.abs(np.sin(v)), np.abs(np.sin(u / 2 + row * np.float32(np.pi / 2)))) - np.float32(0.9)
    return (0.5 + 0.5 * np.tanh(3 * wave)).astype(np.float32)


def _speckle(along: Floats, across: Floats, clip: np.random.Generator) -> Floats:
    """Grain fixed to the object: without it stripes that move along themselves would show no motion. About -1 to 1."""
    total = np.zeros(np.broadcast_shapes(along.shape, across.shape), np.float32)
    for _ in range(5):
        direction, phase = clip.uniform(0, 2 * np.pi, 2)
        frequency = clip.uniform(0.35, 0.9)
        u, v = np.float32(frequency * np.cos(direction)), np.float32(frequency * np.sin(direction))
        total += np.sin(along * u + across * v + np.float32(phase))
    return total / np.float32(np.sqrt(5))


def _outline(along: Floats, across: Floats, clip: np.random.Generator) -> Floats:
    """1 inside a rounded oblong, 0 outside."""
    half_along, half_across = (np.float32(side) for side in clip.uniform(22, 30, 2))
    distance = (along / half_along) ** 4 + (across / half_across) ** 4
    return (0.5 + 0.5 * np.tanh(6 * (1 - distance))).astype(np.float32)


def _two_colours(clip: np.random.Generator) -> Floats:
    """A dark and a light colour, in random order: [2, 3], RGB, 0 to 255."""
    colours = clip.uniform(0, 255, (2, 3)).astype(np.float32)
    luma = np.array([clip.uniform(35, 75), clip.uniform(180, 220)], np.float32)
    colours += (luma - colours @ _LUMA)[:, None]
    return np.clip(colours[clip.permutation(2)], 0, 255)


def _background(scene: np.random.Generator, num_frames: int, size: int) -> Iterator[Floats]:
    """A smooth cloud in two colours that drifts by less than a pixel a frame: [H, W, 3] each, 0 to 255."""
    margin = num_frames // 2 + 2
    extent = size + 2 * margin
    cloud = np.zeros((extent, extent), np.float32)
    place = np.arange(extent, dtype=np.float32)
    for _ in range(10):
        direction, phase = scene.uniform(0, 2 * np.pi, 2)
        frequency = scene.uniform(0.05, 0.45) * 112 / size
        u, v = np.float32(frequency * np.cos(direction)), np.float32(frequency * np.sin(direction))
        cloud += np.sin(place[None, :] * u + place[:, None] * v + np.float32(phase))
    shade = (0.5 + 0.5 * np.tanh(cloud / 3)[..., None]).astype(np.float32)
    first, second = (scene.uniform(70, 170, 3).astype(np.float32) for _ in range(2))
    picture = first + (second - first) * shade + 12 * (shade - 0.5)
    direction, speed = scene.uniform(0, 2 * np.pi), scene.uniform(0.1, 0.5)
    for frame in range(num_frames):
        left = margin + frame * speed * np.cos(direction)
        top = margin + frame * speed * np.sin(direction)
        yield _window(picture, left, top, size)


def _window(picture: Floats, left: float, top: float, size: int) -> Floats:
    """A square of the picture at a place between pixels, by linear interpolation."""
    column, row = int(left), int(top)
    right_part, lower_part = np.float32(left - column), np.float32(top - row)
    square = picture[row : row + size + 1, column : column + size + 1]
    square = square[:-1] * (1 - lower_part) + square[1:] * lower_part
    window: Floats = square[:, :-1] * (1 - right_part) + square[:, 1:] * right_part
    return window
