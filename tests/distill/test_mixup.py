"""Mixtures: the same for every stream, rounded as they say, and learned by both labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videokd.distill.losses import cross_entropy
from videokd.distill.mixup import MixedLabel, mixup, over_labels
from videokd.errors import ConfigError
from videokd.types import STREAMS, Batch


def batch(size=5, *, streams=("iframe", "motion")):
    generator = torch.Generator().manual_seed(0)
    shapes = {name: (size, 3, STREAMS[name].channels, 4, 4) for name in streams}
    values = {n: torch.randint(256, s, dtype=torch.uint8, generator=generator) for n, s in shapes.items()}
    numbers = torch.arange(size) + 10
    return Batch(values, torch.arange(size), tuple("abcdefgh"[:size]), clips=numbers, views=numbers % 3)


@pytest.mark.parametrize("seed", range(4))
def test_every_stream_is_mixed_by_the_same_order_and_share(seed):
    given = batch()
    mixed, label = mixup(given, alpha=1.0, rng=np.random.default_rng(seed))
    for name, values in given.streams.items():
        for row, other in enumerate(label.other.tolist()):  # labels are the rows' own numbers
            exact = label.share * values[row].double().numpy() + (1 - label.share) * values[other].double().numpy()
            assert mixed.streams[name].dtype == torch.uint8
            assert np.abs(mixed.streams[name][row].numpy() - exact).max() <= 0.5 + 1e-4
    assert torch.equal(label.label, given.label)
    assert sorted(label.other.tolist()) == [0, 1, 2, 3, 4]
    assert (mixed.video_ids, mixed.clips.tolist()) == (given.video_ids, [10, 11, 12, 13, 14])
    assert torch.equal(mixed.views, given.views)


def test_the_rounding_is_to_the_nearest():
    streams = {"motion": torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1, 1).expand(2, 1, 2, 1, 1)}
    given = Batch(streams, torch.arange(2), ("a", "b"))
    for seed in range(20):
        mixed, label = mixup(given, alpha=1.0, rng=np.random.default_rng(seed))
        if label.other[0] == 1:
            assert mixed.streams["motion"][1, 0, 0].item() == round(255 * label.share)
            assert mixed.streams["motion"][0, 0, 0].item() == round(255 * (1 - label.share))


def test_where_clips_agree_nothing_changes():
    given = Batch({"motion": torch.full((4, 3, 2, 8, 8), 128, dtype=torch.uint8)}, torch.arange(4), tuple("abcd"))
    for seed in range(10):
        mixed, _ = mixup(given, alpha=0.2, rng=np.random.default_rng(seed))
        assert torch.equal(mixed.streams["motion"], given.streams["motion"])


def test_the_same_generator_mixes_alike_and_leaves_the_batch():
    given = batch()
    before = {name: values.clone() for name, values in given.streams.items()}
    (first, a), (again, b) = (mixup(given, alpha=0.5, rng=np.random.default_rng((3, 7))) for _ in range(2))
    assert a.share == b.share
    assert all(torch.equal(first.streams[name], again.streams[name]) for name in before)
    assert all(torch.equal(given.streams[name], before[name]) for name in before)


def test_cross_entropy_of_a_mixture_equals_that_of_a_soft_label():
    z = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    mixed = MixedLabel(torch.tensor([0, 1, 2, 3, 4]), torch.tensor([5, 1, 0, 0, 2]), 0.3)
    soft = np.zeros((5, 6))
    soft[range(5), mixed.label] += 0.3
    soft[range(5), mixed.other] += 0.7
    log_p = z.double().log_softmax(dim=1).numpy()
    found = cross_entropy(z, mixed)
    assert found.item() == pytest.approx(-(soft * log_p).sum(axis=1).mean(), rel=1e-6)


def test_pieces_of_the_labels_fit_pieces_of_the_batch():
    mixed, label = mixup(batch(5), alpha=1.0, rng=np.random.default_rng(0))
    pieces = list(zip(mixed.split(2), label.split(2), strict=True))
    assert [len(piece) for piece, _ in pieces] == [3, 2]
    assert all(torch.equal(piece.label, of_piece.label) for piece, of_piece in pieces)
    assert torch.equal(torch.cat([of_piece.other for _, of_piece in pieces]), label.other)


def test_wrong_arguments():
    for alpha in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"mixup's alpha is .*above 0"):
            mixup(batch(), alpha=alpha, rng=np.random.default_rng(0))
    label = torch.tensor([0, 1])
    for other, share in ((label[:1], 0.5), (label, 1.5)):
        with pytest.raises(ValueError, match=r"label is \[2\], other .*accepted"):
            MixedLabel(label, other, share)
    assert over_labels(lambda given: given, label) is label
