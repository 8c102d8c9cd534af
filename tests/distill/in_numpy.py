"""Softmax, divergence and random logits in float64 NumPy, for tests of the losses."""

from __future__ import annotations

import numpy as np
import torch


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def kl(p, q):
    return (p * (np.log(p) - np.log(q))).sum(axis=1).mean()


def logits(seed, batch=5, classes=7, scale=3.0):
    return np.random.default_rng(seed).normal(size=(batch, classes)) * scale


def float32(values, requires_grad=False):
    return torch.tensor(values, dtype=torch.float32, requires_grad=requires_grad)
