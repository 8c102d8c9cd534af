"""Detects video files that are cut off or damaged, for reading and for transcoding.

What can be known depends on the container. MP4 and MOV list every sample. Matroska, WebM, AVI, FLV, ASF, SWF and MXF state how long the
file is, unless they were written as a live stream. Transport streams, MPEG-PS, Ogg, fragmented MP4 and live Matroska show it
only if they end inside one of their own packets. Raw bitstreams do not show it. In any container, FFmpeg flags a packet of which
bytes are missing.
"""

from __future__ import annotations

from typing import Any

from videokd.bitstream.encryption import encrypted
from videokd.bitstream.source import Source
from videokd.bitstream.stated_length import stated_bytes
from videokd.bitstream.transport_stream import TransportStream
from videokd.errors import DecodeError


class PacketCheck:
    """Checks the packets of one video track, from the first to the last.

    Args:
        source: of the video.
        container: as PyAV opened it.
        track: one of its video tracks.

    Raises:
        DecodeError: the file is shorter than it states, or it is encrypted.
    """

    def __init__(self, source: Source, container: Any, track: Any) -> None:
        self._source, self._format, self._track = source, container.format.name, track
        self._count = 0
        self._joined: bool | None = None
        size = source.size
        stated = stated_bytes(source)
        if stated is not None and stated > size:
            raise DecodeError(
                f"{source} is cut short: it has {size} of the {stated} bytes that it states. Copy the file again."
            )
        if self._format == "mpegts":
            packets = TransportStream(source)
            if packets.is_encrypted(track.id):
                raise encrypted(source)
            if packets.ends_inside_a_packet:
                raise DecodeError(f"{source} is cut short: it ends inside a transport packet. Copy the file again.")

    def see(self, packet: Any) -> None:
        """Checks the next packet.

        Args:
            packet: as PyAV gives it, not empty.

        Raises:
            DecodeError: bytes of it are missing.
        """
        if packet.is_corrupt and not self._is_joined():
            raise DecodeError(f"{self._source} is cut short or damaged at packet {self._count}. Copy the file again.")
        self._count += 1

    def end(self) -> None:
        """Call it after the last packet.

        Raises:
            DecodeError: the file lists more packets.
        """
        if "mp4" not in self._format:
            return
        # Not `track.frames`: an edit list may show fewer, and a sample may be empty
        expected = sum(entry.size > 0 for entry in self._track.index_entries)
        if expected and not self._count:
            raise DecodeError(
                f"{self._source} holds none of the {expected} packets that it lists: they are cut off, or in another file (accepted: "
                "one file that holds its pictures). Copy the file again, or save it as one by itself."
            )
        if self._count < expected:
            raise DecodeError(
                f"{self._source} is cut short: {self._count} of {expected} packets are there. Copy the file again."
            )

    def _is_joined(self) -> bool:
        """Whether packets are flagged only because transport streams were joined, so that their counters restart."""
        if self._joined is None:
            self._joined = self._format == "mpegts" and TransportStream(self._source).is_whole_or_joined(self._track.id)
        return self._joined
