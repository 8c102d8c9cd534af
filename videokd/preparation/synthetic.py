"""Generated clips: a textured object moves over a textured background that drifts slowly.

An I-frame shows the texture but not the motion; motion vectors show the motion but not the texture. Object, place, size, angle
and colours have the same distribution for every motion, and speed and path have the same distribution for every texture.

`generate` makes a class of each combination, so no single stream can distinguish all classes. `generate_actions` gives each
action its own motion and its own texture, as people who play the violin hold violins: every stream can recognise the action, but
motion looks alike in all scenes and is learned from a few clips, while textures need many clips.
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

from videokd.errors import ConfigError, DataError
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import encode

Appearance = Literal["stripes", "checks", "dots", "rings", "bricks", "waves"]
Motion = Literal["slide", "bounce", "spin", "circle", "cross", "shake"]
APPEARANCES: tuple[Appearance, ...] = get_args(Appearance)
MOTIONS: tuple[Motion, ...] = get_args(Motion)
_COMBINED = 3  # appearances and motions that `generate` combines
_LABELLED_TAKES = 3  # clips of each action in a labelled scene

FRAME_RATE = 25.0
_SETTINGS_NAME = "generated.json"
_EXTENT = 48  # pixels from the object's centre, at size 112, where it is transparent
_FINENESS = 3  # samples per pixel of the drawn object
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# As most videos: one I-frame at the start. `prepare` makes short GOPs.
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
    """Writes a dataset of nine classes: `<appearance>_<motion>/<appearance>_<motion>_gNN_cNN.mp4`, H.264, 25 frames per second.

    A group is a scene (background, its drift, noise) that all classes share; the layout `folder` keeps groups whole. The same
    arguments give the same clips; clips that exist are not written again.

    Args:
        out: the folder to write to.
        seed: seed of all randomness.
        groups: number of scenes, 1 to 99.
        clips_per_group: clips of each class in each scene, 1 to 99.
        num_frames: frames of each clip.
        size: height and width in pixels; a multiple of 16.

    Returns:
        The folder, for `videokd prepare folder`.

    Raises:
        ConfigError: a number is out of its range.
        DataError: the folder has clips of other settings, or cannot be written.
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
    _check_settings_file(out / _SETTINGS_NAME, settings)

    def clip_of(appearance: Appearance, motion: Motion, group: int, clip: int) -> _ClipToRender:
        name = f"{appearance}_{motion}"
        target = out / name / f"{name}_g{group:02d}_c{clip:02d}.mp4"
        return _ClipToRender(target, appearance, motion, (seed, group), clip)

    wanted = product(APPEARANCES[:_COMBINED], MOTIONS[:_COMBINED], range(1, groups + 1), range(1, clips_per_group + 1))
    _render_all([clip_of(*each) for each in wanted], num_frames=num_frames, size=size)
    return out


@dataclass(frozen=True)
class Scenes:
    """How many scenes `generate_actions` makes.

    Args:
        labelled: to train on with labels, 1 to 99.
        unlabelled: to train on without labels, 1 to 99.
        tested: to test on, 1 to 99.

    Raises:
        ConfigError: a number is out of its range.
    """

    labelled: int = 2
    unlabelled: int = 30
    tested: int = 27

    def __post_init__(self) -> None:
        if not all(1 <= number <= 99 for number in (self.labelled, self.unlabelled, self.tested)):
            raise ConfigError(f"{self} (accepted: 1 to 99 each).")


def generate_actions(
    out: Path | str, *, seed: int = 0, scenes: Scenes | None = None, num_frames: int = 36, size: int = 112
) -> Path:
    """Writes a few clips with labels, many without, and clips to test on, as H.264 with 25 frames per second.

    They are `labelled/train/<action>/…`, `unlabelled/clip_NNNN.mp4` and `labelled/test/<action>/…`. There are six actions,
    named by their motions, each with an object of its own texture. No scene is in two of the three parts. A labelled scene has
    three clips of each action, because it costs little to film an action again; other scenes have one.

    Args:
        out: the folder to write to.
        seed: seed of all randomness.
        scenes: number of scenes; None: the defaults.
        num_frames: frames of each clip.
        size: height and width in pixels; a multiple of 16.

    Returns:
        The folder.

    Raises:
        ConfigError: a number is out of its range.
        DataError: the folder has clips of other settings, or cannot be written.
    """
    out = Path(out)
    scenes = scenes or Scenes()
    scenes_of = {"train": scenes.labelled, "unlabelled": scenes.unlabelled, "test": scenes.tested}
    _check_shape(num_frames, size)
    _check_settings_file(out / _SETTINGS_NAME, {"seed": seed, **scenes_of, "num_frames": num_frames, "size": size})
    clips: list[_ClipToRender] = []
    first_scene = 1
    for part, number in scenes_of.items():
        takes = range(1, _LABELLED_TAKES + 1 if part == "train" else 2)
        wanted = product(range(first_scene, first_scene + number), takes, zip(APPEARANCES, MOTIONS, strict=True))
        for count, (scene, take, (appearance, motion)) in enumerate(wanted, start=1):
            target = out / "labelled" / part / motion / f"{motion}_g{scene:02d}_c{take:02d}.mp4"
            if part == "unlabelled":
                target = out / part / f"clip_{count:04d}.mp4"
            clips.append(_ClipToRender(target, appearance, motion, (seed, scene), take))
        first_scene += number
    _render_all(clips, num_frames=num_frames, size=size)
    return out


@dataclass(frozen=True)
class _ClipToRender:
    """A clip to render: its file, what it shows, and the seeds of its scene and of the clip in that scene."""

    target: Path
    appearance: Appearance
    motion: Motion
    scene: tuple[int, ...]
    clip: int

    def render(self, *, num_frames: int, size: int) -> None:
        if self.target.exists():
            return
        scene = np.random.default_rng(self.scene)
        kind = (APPEARANCES.index(self.appearance), MOTIONS.index(self.motion))
        rng = np.random.default_rng([*self.scene, self.clip, *kind])
        frames = render_clip(self.appearance, self.motion, scene=scene, clip=rng, num_frames=num_frames, size=size)
        encode(frames, self.target, frame_rate=FRAME_RATE, encoding=_SOURCE_FORM)


def _render_all(clips: Sequence[_ClipToRender], *, num_frames: int, size: int) -> None:
    """Renders the clips that are missing, with a progress bar at a terminal."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy and the encoder release the interpreter lock
        rendered = pool.map(partial(_ClipToRender.render, num_frames=num_frames, size=size), clips)
        for _ in tqdm(rendered, total=len(clips), desc="generate", unit="clip", disable=None):
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
    """Renders one clip.

    Args:
        appearance: the object's texture.
        motion: "slide" moves left and right, "bounce" up and down, "cross" along a diagonal, "circle" on a circle; "spin" rotates
            in either direction, "shake" trembles.
        scene: randomness of background, drift and noise: the same state gives the same scene.
        clip: randomness of everything else.
        num_frames: T.
        size: H and W in pixels, a multiple of 16.

    Returns:
        uint8 [T, H, W, 3], RGB.

    Raises:
        ConfigError: appearance or motion is unknown, or num_frames or size is out of its range.
    """
    if appearance not in APPEARANCES or motion not in MOTIONS:
        raise ConfigError(
            f"{appearance!r}, {motion!r} (accepted: {', '.join(APPEARANCES)}; {', '.join(MOTIONS)}). Choose one of each."
        )
    _check_shape(num_frames, size)
    x, y, angle = _object_path(motion, clip, num_frames)
    drawing = _draw_object(appearance, clip)  # [N, N, 4]
    visible = drawing[_drawing_places(x, y, angle, size, drawing.shape[0])]  # [T, H, W, 4]
    frames = np.stack(list(_background(scene, num_frames, size)))  # [T, H, W, 3]
    frames += (visible[..., :3] - frames) * visible[..., 3:]
    frames *= (1 + 0.04 * np.sin(np.arange(num_frames, dtype=np.float32) / 9))[:, None, None, None]
    frames += clip.standard_normal((num_frames, size, size, 1), np.float32) * np.float32(scene.uniform(1, 3))
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def _check_shape(num_frames: int, size: int) -> None:
    if num_frames < 2 or size < 32 or size % 16:
        raise ConfigError(
            f"num_frames {num_frames}, size {size} (accepted: two or more frames; a multiple of 16 from 32 pixels)."
        )


def _check_settings_file(path: Path, settings: dict[str, int]) -> None:
    try:
        if path.exists():
            if json.loads(path.read_text()) != settings:
                raise DataError(f"{path.parent} has clips generated with other settings. Choose another folder.")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error}). Choose another folder.") from error


def _object_path(motion: Motion, clip: np.random.Generator, num_frames: int) -> tuple[Floats, Floats, Floats]:
    """The object's centre (pixels from the picture's centre, at size 112) and its angle, at each frame.

    Places and angles are uniform for every motion, so a single frame does not give the motion away.
    """
    time = np.arange(num_frames)
    reach = 24.0
    x, y = (np.full(num_frames, clip.uniform(-reach, reach)) for _ in range(2))
    angle = np.full(num_frames, clip.uniform(0, 2 * np.pi))
    # Everything sways a little, so that no motion is just the absence of another
    x, y, angle = (
        values + extent * np.sin(time * clip.uniform(0.1, 0.2) + clip.uniform(0, 2 * np.pi))
        for values, extent in ((x, 1.0), (y, 1.0), (angle, 0.03))
    )
    # To and fro at constant speed: a triangle wave, which stays nowhere longer than elsewhere
    travelled = clip.uniform(0, 4 * reach) + clip.uniform(2.0, 3.2) * time
    to_and_fro = np.abs(travelled % (4 * reach) - 2 * reach) - reach
    turn = clip.choice([-1, 1]) * clip.uniform(0.07, 0.11) * time
    side = clip.choice([-1, 1])
    if motion in ("slide", "cross"):
        x += to_and_fro - x[0]
    if motion in ("bounce", "cross"):
        y += (to_and_fro if motion == "bounce" else side * to_and_fro) - y[0]
    if motion == "circle":
        radius = reach * np.sqrt(2 / 3)  # the same spread as places drawn uniformly from the square
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
    """The object without rotation, with _FINENESS samples per pixel: [N, N, 4], RGB from 0 to 255 and opacity."""
    scale = np.float32(clip.uniform(0.85, 1.2))
    place = np.arange(-_EXTENT, _EXTENT, 1 / _FINENESS, dtype=np.float32) / scale
    along, across = place[None, :], place[:, None]
    one, other = _two_colours(clip)
    shade = _texture(appearance, along, across, clip)[..., None]
    surface = one + (other - one) * shade + (22 * _speckle(along, across, clip))[..., None]
    return np.concatenate([surface, _outline(along, across, clip)[..., None]], axis=2)


def _drawing_places(x: Floats, y: Floats, angle: Floats, size: int, samples: int) -> tuple[npt.NDArray[np.intp], ...]:
    """Row and column in the object's drawing for each pixel, [T, H, W] each; pixels far from the object get its transparent edge."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(112 / size) - 56
    right = axis[None, None, :] - x[:, None, None]
    down = axis[None, :, None] - y[:, None, None]
    cosine, sine = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    places = (down * cosine - right * sine, right * cosine + down * sine)
    return tuple(np.clip((place + _EXTENT) * _FINENESS, 0, samples - 1).astype(np.intp) for place in places)


def _texture(appearance: Appearance, along: Floats, across: Floats, clip: np.random.Generator) -> Floats:
    """A pattern from 0 to 1, with edges about a pixel wide."""
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
    else:  # bricks: every second row is shifted by half a brick
        row = np.floor(v / np.float32(np.pi))
        wave = 3 * np.minimum(np.abs(np.sin(v)), np.abs(np.sin(u / 2 + row * np.float32(np.pi / 2)))) - np.float32(0.9)
    return (0.5 + 0.5 * np.tanh(3 * wave)).astype(np.float32)


def _speckle(along: Floats, across: Floats, clip: np.random.Generator) -> Floats:
    """Grain fixed to the object, about -1 to 1: without it, stripes that move along themselves would show no motion."""
    total = np.zeros(np.broadcast_shapes(along.shape, across.shape), np.float32)
    for _ in range(5):
        direction, phase = clip.uniform(0, 2 * np.pi, 2)
        frequency = clip.uniform(0.35, 0.9)
        u, v = np.float32(frequency * np.cos(direction)), np.float32(frequency * np.sin(direction))
        total += np.sin(along * u + across * v + np.float32(phase))
    return total / np.float32(np.sqrt(5))


def _outline(along: Floats, across: Floats, clip: np.random.Generator) -> Floats:
    """1 inside a rounded rectangle, 0 outside."""
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
    """A smooth cloud in two colours that drifts by less than a pixel per frame: for each frame [H, W, 3], 0 to 255."""
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
    """A square of the picture, at a place between pixels, by linear interpolation."""
    column, row = int(left), int(top)
    right_part, lower_part = np.float32(left - column), np.float32(top - row)
    square = picture[row : row + size + 1, column : column + size + 1]
    square = square[:-1] * (1 - lower_part) + square[1:] * lower_part
    window: Floats = square[:, :-1] * (1 - right_part) + square[:, 1:] * right_part
    return window
