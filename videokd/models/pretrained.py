"""Fetching pretrained weights: from this machine's cache, or from a server that answers; without minutes of retries."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants

_SECONDS = 1.0


def answers(url: str, *, seconds: float = _SECONDS) -> bool:
    """Whether a server answers, with any status; proxies of the environment are used.

    Args:
        url: of the server.
        seconds: to wait at most, the look-up of its name included.

    >>> answers("http://127.0.0.1:9", seconds=1)
    False
    """
    found = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
        except urllib.error.HTTPError:
            pass
        except (OSError, ValueError):
            return
        found.set()

    asking = threading.Thread(target=ask, daemon=True)  # nothing bounds the time in which a name is looked up
    asking.start()
    asking.join(seconds)
    return found.is_set()


@contextmanager
def only_cached_where_offline() -> Iterator[None]:
    """While it lasts, Hugging Face's client does not try again and again where its server does not answer."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
