"""A GPU that runs out of memory: one line that says what to change."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from videokd.errors import ConfigError


@contextmanager
def out_of_memory_in_a_line(explain: Callable[[], str]) -> Iterator[None]:
    """While it lasts, PyTorch's error of a GPU without free memory becomes one line.

    Args:
        explain: called when the memory is free again; returns what was computed, and what to change.

    Raises:
        ConfigError: in the place of `torch.OutOfMemoryError`.

    >>> with out_of_memory_in_a_line(lambda: "a batch of 8. Pass a smaller one."):
    ...     raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. …")
    Traceback (most recent call last):
    videokd.errors.ConfigError: out of memory on the GPU: a batch of 8. Pass a smaller one.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # their variables are what fills the memory
        torch.cuda.empty_cache()
        raise ConfigError(f"out of memory on the GPU: {explain()}") from None
