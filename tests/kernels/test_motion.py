"""Following vectors frame by frame, against a pixel-by-pixel definition: also where macroblocks are skipped because they did not move."""

from __future__ import annotations

import numpy as np
import pytest

from videokd.kernels.motion import Follower, Vectors, motion_of_chain, motion_of_frame
from videokd.kernels.residual import gather

HEIGHT, WIDTH = 50, 71  # no multiples of a macroblock


class Slow:
    """The definition: a source, a flag and a colour for every pixel."""

    def __init__(self, picture: np.ndarray) -> None:
        self.picture = picture
        self.restart()

    def restart(self) -> None:
        self.source = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=-1)  # [H, W, 2]
        self.valid = np.ones((HEIGHT, WIDTH), np.bool_)

    def follow(self, vectors: Vectors) -> None:
        source, valid = self.source.copy(), np.zeros_like(self.valid)
        # The last non-zero vector counts; a zero vector never overrides one
        for vector in sorted(vectors, key=lambda vector: (vector[3:5] != vector[5:7]).any()):
            wide, high = int(vector[2]) & 255, int(vector[2]) >> 8
            right, down = int(vector[5] - vector[3]), int(vector[6] - vector[4])
            for y in range(int(vector[6]) - high // 2, int(vector[6]) + high // 2):
                for x in range(int(vector[5]) - wide // 2, int(vector[5]) + wide // 2):
                    inside = 0 <= x < WIDTH and 0 <= y < HEIGHT and 0 <= x - right < WIDTH and 0 <= y - down < HEIGHT
                    if inside:
                        source[y, x] = self.source[y - down, x - right]
                        valid[y, x] = self.valid[y - down, x - right]
        # A pixel that no vector covers stays where it was, and is not valid
        self.source, self.valid = source, valid

    def warped(self) -> np.ndarray:
        return self.picture[self.source[..., 1], self.source[..., 0]]


def frame_of_vectors(rng: np.random.Generator, *, still: float) -> Vectors:
    """Blocks of one P-frame: most do not move, some are split, some are intra-coded, some come from outside the picture."""
    vectors = []
    for top in range(0, HEIGHT, 16):
        for left in range(0, WIDTH, 16):
            kind = rng.random()
            size = 8 if kind > 0.9 else 16
            if kind < 0.05:
                continue
            for y in range(top, top + 16, size):
                for x in range(left, left + 16, size):
                    moved = (0, 0) if rng.random() < still else rng.integers(-9, 10, 2)
                    vector = np.zeros(20, np.int16)
                    vector[0], vector[2] = -1, size | size << 8
                    vector[5:7] = x + size // 2, y + size // 2
                    vector[3:5] = vector[5:7] - moved
                    vectors.append(vector)
    return np.array(vectors, np.int16)


@pytest.mark.parametrize("still", [0.0, 0.8, 1.0])
def test_any_sequence_of_frames_gives_what_the_definition_says(still: float) -> None:
    rng = np.random.default_rng(round(10 * still))
    picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    rows = picture.reshape(HEIGHT, -1)
    follower, slow = Follower(HEIGHT, WIDTH), Slow(picture)
    follower.restart()
    follower.start_warping(rows)
    warping = True
    for _ in range(60):
        what = rng.random()
        if what < 0.08:
            follower.restart()
            slow.restart()
            follower.start_warping(rows)
            warping = True
        elif what < 0.2:
            # The motion of a single frame, of another picture: it uses the same memory
            follower.start_warping(rows[::-1])
            follower.moved(frame_of_vectors(rng, still=still))
            warping = False
        vectors = frame_of_vectors(rng, still=still)
        if not warping and rng.random() < 0.5:
            gather(rows, follower.chain, follower.warped)
            warping = True
        warping &= rng.random() < 0.8
        follower.follow(vectors, warping=warping)
        slow.follow(vectors)
        motion, valid = motion_of_chain(follower.chain)
        pixels = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=-1)
        assert np.array_equal(valid, slow.valid)
        assert np.array_equal(motion, pixels - slow.source)
        if warping:
            assert np.array_equal(follower.warped.reshape(picture.shape), slow.warped())
        warped = np.empty_like(follower.warped)
        gather(rows, follower.chain, warped)
        assert np.array_equal(warped.reshape(picture.shape), slow.warped())


def overlapping_vectors(rng: np.random.Generator) -> Vectors:
    """Blocks of any size anywhere, also over the edges of the picture and over each other; half of them do not move."""
    vectors = np.zeros((40, 20), np.int16)
    sides = rng.choice([2, 4, 6, 8, 16], (2, 40))
    vectors[:, 0] = -1
    vectors[:, 2] = sides[0] | sides[1] << 8
    vectors[:, 5] = rng.integers(-4, WIDTH + 4, 40)
    vectors[:, 6] = rng.integers(-4, HEIGHT + 4, 40)
    vectors[:, 3:5] = vectors[:, 5:7] - rng.integers(-9, 10, (40, 2)) * rng.integers(0, 2, (40, 1))
    return vectors


def test_of_blocks_that_overlap_the_last_non_zero_vector_counts() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=-1)
    follower, slow = Follower(HEIGHT, WIDTH), Slow(picture)
    follower.restart()
    follower.start_warping(picture.reshape(HEIGHT, -1))
    for number in range(30):
        # Frames of the usual kind between them: what these skip must be right after any frame
        vectors = frame_of_vectors(rng, still=0.8) if number % 3 == 2 else overlapping_vectors(rng)
        once = Slow(picture)
        once.follow(vectors)
        motion, valid = motion_of_frame(vectors, HEIGHT, WIDTH)
        assert np.array_equal(motion, pixels - once.source)
        assert np.array_equal(valid, once.valid)
        follower.follow(vectors, warping=True)
        slow.follow(vectors)
        motion, valid = motion_of_chain(follower.chain)
        assert np.array_equal(motion, pixels - slow.source)
        assert np.array_equal(valid, slow.valid)
        assert np.array_equal(follower.warped.reshape(picture.shape), slow.warped())
