"""What may be watched: addresses, files, devices and standard input, by a list of protocols; no message shows a password.

FFmpeg opens what an address names, and playlists name further addresses. So each protocol here lists those that FFmpeg may use for it,
and each kind of source the containers that may come. Nothing but the command line's own files is ever opened on this machine.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from av.format import formats_available

from videokd.codec.opening import CONTAINERS
from videokd.errors import ConfigError

Kind = Literal["stdin", "file", "device", "network"]
#: The name of standard input on the command line.
STANDARD_INPUT = "-"
# What FFmpeg may use for an address of each protocol. Streams of HLS come over HTTP in pieces, maybe encrypted
_WEB = "http,https,tcp,tls,crypto"
_PROTOCOLS: Mapping[str, str] = MappingProxyType(
    {
        "rtsp": "rtsp,rtp,tcp,udp",
        "rtsps": "rtsps,rtsp,rtp,tcp,udp,tls",
        "tcp": "tcp",
        "udp": "udp",
        "srt": "srt",
        "http": _WEB,
        "https": _WEB,
    }
)
_WEB_SCHEMES, _RTSP_SCHEMES = ("http", "https"), ("rtsp", "rtsps")
_CAMERAS = "v4l2"
_WITH_PORT = ("tcp", "udp", "srt")
# FFmpeg looks at so much of a stream before it names the tracks: microseconds and bytes
_ANALYSED = {"analyzeduration": "3000000", "probesize": "2000000", "fpsprobesize": "0"}
_OPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        # A burst that the buffer cannot hold is a loss like others, not an error
        "udp": {"overrun_nonfatal": "1", "fifo_size": "16384", "buffer_size": "2097152"},
    }
)
ACCEPTED = "(accepted: a file, a device such as /dev/video0, - for standard input, or an address of " + ", ".join(
    f"{name}://" for name in _PROTOCOLS
)


@dataclass(frozen=True)
class LiveSource:
    """Something to watch.

    Args:
        name: what results and messages call it: without user, password and query.
        kind: what it is.
        target: what FFmpeg opens; with the password, so it is never shown.
        options: FFmpeg's, for opening it.
    """

    name: str
    kind: Kind
    target: str = field(repr=False)
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def scheme(self) -> str:
        """The protocol of an address; empty for files, devices and standard input."""
        return self.target.partition("://")[0].lower() if self.kind == "network" else ""

    @property
    def waits(self) -> bool:
        """Whether what is not read yet is kept elsewhere: in a file, a pipe, or by a web server. Cameras do not wait."""
        return self.kind in ("stdin", "file") or self.scheme in _WEB_SCHEMES


def sources_of(given: Sequence[str]) -> tuple[LiveSource, ...]:
    """The sources that a command line names, each with a name of its own.

    Args:
        given: paths, addresses, or "-".

    Raises:
        ConfigError: there is none, an address is not possible or its protocol is not allowed, a file is missing, or standard input is
            named twice.

    >>> [source.name for source in sources_of(["rtsp://user:secret@camera/1", "udp://:5000", "-"])]
    ['rtsp://camera/1', 'udp://:5000', '-']
    """
    if not given:
        raise ConfigError(f"nothing to watch {ACCEPTED}). Name one source or more.")
    if list(given).count(STANDARD_INPUT) > 1:
        raise ConfigError("- is named twice (accepted: standard input once). Remove one.")
    sources = [_source_of(text) for text in given]
    repeated = Counter(source.name for source in sources)
    seen: Counter[str] = Counter()
    named = []
    for source in sources:
        seen[source.name] += 1
        unique = f"{source.name} #{seen[source.name]}" if repeated[source.name] > 1 else source.name
        named.append(replace(source, name=unique))
    return tuple(named)


def _source_of(text: str) -> LiveSource:
    if text == STANDARD_INPUT:
        return LiveSource(text, "stdin", text, _only_containers("none"))
    if "://" in text:
        return _address(text)
    try:
        mode = os.stat(text).st_mode
    except (OSError, ValueError):
        raise ConfigError(f"{text:.200} is not there {ACCEPTED}). Check the path.") from None
    if stat.S_ISCHR(mode):
        if _CAMERAS not in formats_available:
            raise ConfigError(
                f"{text:.200} is a device, which this build of FFmpeg does not read {ACCEPTED}). "
                f"Pipe it: `ffmpeg -f {_CAMERAS} -i {text:.200} -c:v libx264 -bf 0 -f mpegts - | videokd watch -`."
            )
        return LiveSource(text, "device", os.path.abspath(text), {"protocol_whitelist": "file"})
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
        return LiveSource(
            text, "file" if stat.S_ISREG(mode) else "stdin", os.path.abspath(text), _only_containers("none")
        )
    raise ConfigError(f"{text:.200} is a directory or a socket {ACCEPTED}). Name a file.")


def _only_containers(protocols: str, *further: str) -> dict[str, str]:
    return {"protocol_whitelist": protocols, "format_whitelist": ",".join((*CONTAINERS, *further)), **_ANALYSED}


def _address(text: str) -> LiveSource:
    scheme = text.partition("://")[0].lower()
    if scheme not in _PROTOCOLS:
        raise ConfigError(f"{scheme:.40}:// is not a protocol that is watched {ACCEPTED}). Choose one of these.")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ConfigError(f"an address of {scheme}:// cannot be read {ACCEPTED}). Check its host and port.") from None
    name = _shown(parts, port)
    if scheme in _WITH_PORT and port is None:
        raise ConfigError(f"{name} names no port (accepted: {scheme}://host:port). Add it.")
    if scheme not in _WITH_PORT and not parts.hostname:
        raise ConfigError(f"{name} names no host (accepted: {scheme}://host/path). Add it.")
    further = ("hls",) if scheme in _WEB_SCHEMES else ()
    options = dict(_only_containers(_PROTOCOLS[scheme], *further))
    if scheme in _RTSP_SCHEMES:
        del options["format_whitelist"]  # an address of RTSP is always taken as that
    target = scheme + text[len(scheme) :]  # FFmpeg knows protocols in small letters only
    return LiveSource(name, "network", target, {**options, **_OPTIONS.get(scheme, {})})


def _shown(parts: SplitResult, port: int | None) -> str:
    """The address without user, password, query and fragment: each may hold a secret."""
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path}"


def opening_options(source: LiveSource, attempt: int) -> dict[str, Any]:
    """What `av.open` takes for a source, besides what to open and how long to wait.

    Args:
        source: to open.
        attempt: how often it was tried before. RTSP over TCP loses nothing, but some servers have UDP only: they take turns.
    """
    if source.kind == "device":
        return {"options": dict(source.options), "format": _CAMERAS}
    by_tcp = source.scheme in _RTSP_SCHEMES and attempt % 2 == 0
    return {"options": {**source.options, **({"rtsp_flags": "prefer_tcp"} if by_tcp else {})}}
