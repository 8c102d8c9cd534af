"""Opens video files, for all readers: which files and container formats are accepted, and which video track is taken.

FFmpeg also opens playlists, scripts, devices, pictures and network addresses, and some of these open other files. Here a path names
one file, its container format must be on a list, and only that file is opened. Bytes and file objects are read by the same rules.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from videokd.bitstream.encryption import check_unencrypted
from videokd.bitstream.file_signatures import what_it_is
from videokd.bitstream.sample_tables import check_tables
from videokd.bitstream.source import Openable, Source, SourceView, source_of
from videokd.codec.index import DEFAULT_LIMITS, Limits
from videokd.errors import DecodeError

_FILES_OF_TRACKS = (
    "mov mp4 matroska webm avi mpegts mpeg flv live_flv kux asf asf_o wtv rm ivr ogg nut swf mxf gxf lxf "
    "dv nsv nuv ty pva dhav vividas vivo xmv mgsts"
)
_SINGLE_TRACKS = (
    "m4v mpegvideo h261 h263 h264 hevc vvc evc av1 obu ivf vc1 vc1test dirac dnxhd cavsvideo avs2 avs3 "
    "mjpeg mjpeg_2000 mpjpeg ingenient smjpeg yuv4mpegpipe ipu apv"
)
_ANIMATIONS_AND_CAMERAS = "gif apng jpegxl_anim webp webp_anim cine ser r3d pdv ipmovie luodat svs"
_GAMES_AND_EARLY_MULTIMEDIA = (
    "4xm ace anm argo_brp avs bethsoftvid bfi bink bmv c93 cdg cdxl dfa dsicin dxa ea ea_cdata film_cpk "
    "filmstrip flic frm gdv hnm idcin ifv iff iss iv8 jv lmlm4 lvf mm mods moflex msnwctcp mtv mv mvi mxg "
    "nc paf pmp psxstr rl2 roq rpl sdr2 sga siff smk smush thp tiertexseq tmv usm vmd wc3movie wsvqa xmd "
    "yop hxvs vidc simbiosis_imx"
)
#: FFmpeg's names of the formats that hold a whole video in one file. A name that a build of FFmpeg does not know does no harm.
#: Omitted because they open other files: hls, dash, imf, concat, sdp, rtsp, image2, vobsub, mlv, avisynth, vapoursynth, dvdvideo,
#: and devices.
CONTAINERS = tuple(
    f"{_FILES_OF_TRACKS} {_SINGLE_TRACKS} {_ANIMATIONS_AND_CAMERAS} {_GAMES_AND_EARLY_MULTIMEDIA}".split()
)
# How often reading goes on behind a track that begins late
_MOST_LATE_TRACKS = 100
_FORMATS = {"format_whitelist": ",".join(CONTAINERS)}
# FFmpeg opens a path itself; what reads bytes and file objects is handed to it, and there is no protocol of the name "none"
_ONLY_THIS_FILE, _NO_FILE = ({"protocol_whitelist": protocol} | _FORMATS for protocol in ("file", "none"))
#: Titles and comments may not be UTF-8. PyAV 19 ignores that by itself, and has no such argument.
_IGNORE_BAD_METADATA: dict[str, Any] = (
    {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}
)


def check_source(given: Openable | Source) -> None:
    """Checks that there is something to read. A path is always the name of a file, even if it looks like a URL or an option.

    Args:
        given: path, bytes or file object.

    Raises:
        ConfigError: it is none of these.
        DecodeError: it does not exist, is a directory, a pipe or a device, is empty, or cannot be read.
    """
    source = source_of(given)
    if source.path is not None:
        _check_path(source.path)
    with source.open() as file:
        if not file.read(1):
            raise DecodeError(f"{source} is empty (accepted: a video file). Copy or download it again.")


def _check_path(path: Path) -> None:
    try:
        if path.is_dir():
            raise DecodeError(f"{path} is a directory (accepted: a video file). Name one of the files in it.")
        if not path.exists():
            raise DecodeError(f"{path} is not there (accepted: a video file). Check the path.")
        if not path.is_file():
            raise DecodeError(f"{path} is a pipe or a device (accepted: a video file). Write it to a file first.")
        with open(path, "rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:  # no permission, a name that is too long, a zero byte in it
        raise DecodeError(
            f"{path} cannot be opened: {reason(error)} (accepted: a video file). Check its name and permissions."
        ) from error


def demuxed(container: Any, *streams: Any) -> Iterator[Any]:
    """The packets of tracks, from the current place in the file; the last one is empty.

    FFmpeg may find another track while it reads (sound that begins late in FLV). PyAV does not know that one, and raises IndexError
    at its first packet or at the end; reading goes on behind it.

    Args:
        container: from `open_container`.
        streams: of its tracks; none: all of them.

    Raises:
        av.FFmpegError, OSError: a packet cannot be read.
    """
    for _ in range(_MOST_LATE_TRACKS):
        try:
            yield from container.demux(*streams)
        except IndexError:
            continue
        return


def open_container(given: Openable | Source, limits: Limits = DEFAULT_LIMITS) -> tuple[Any, Any]:
    """Opens a video, and sets its decoder to one thread.

    One thread, because FFmpeg has a race in frame-threaded H.264 decoding with exported vectors: vectors are missing, different ones
    at each run, while the pictures are right. Decode several videos in parallel instead.

    Args:
        given: path, bytes or file object.
        limits: what to refuse.

    Returns:
        (container, video track), as PyAV gives them; the caller closes the container.

    Raises:
        DecodeError: FFmpeg cannot read the file, its format is not one of `CONTAINERS`, it holds no video, or its pictures are too
            large.
    """
    source = source_of(given)
    check_source(source)
    check_tables(source)
    check_unencrypted(source)
    options = dict(_NO_FILE if source.path is None else _ONLY_THIS_FILE)
    try:
        container: Any = av.open(
            _name_or_file(source), options=options, timeout=limits.stall_seconds, **_IGNORE_BAD_METADATA
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _refused(source, error) from error
    try:
        stream = video_track(container, source)
        context = stream.codec_context
        check_side(source, context.width, context.height, limits)
    except BaseException:
        container.close()
        raise
    set_up(context, limits)
    return container, stream


def check_side(source: Source | str, width: int, height: int, limits: Limits) -> None:
    """Checks the size of pictures.

    Args:
        source: of the video, for messages.
        width: in pixels.
        height: in pixels.
        limits: what to refuse.

    Raises:
        DecodeError: they are too large.
    """
    if max(width, height) > limits.side:
        raise DecodeError(
            f"{source} has pictures of {width}×{height} pixels (accepted: up to {limits.side} either way). "
            "If the file is not damaged, open it with limits=Limits(side=…)."
        )


def set_up(context: Any, limits: Limits, *, flags: str = "") -> None:
    """Sets what every decoder needs: one thread, the limit of pictures, and FFmpeg's flags.

    Args:
        context: the decoder.
        limits: what to refuse.
        flags: further ones, as "+name".
    """
    context.thread_type = "NONE"
    context.thread_count = 1
    # Without "unaligned", FFmpeg rounds the left crop of H.264 to a number of pixels that suits vector instructions
    context.options = {"flags": f"+unaligned{flags}", "max_pixels": str(limits.side**2)}


def _name_or_file(source: Source) -> Any:
    """What PyAV opens: the absolute path, which FFmpeg never takes for a URL; the opened file if the path is not UTF-8, or none."""
    if source.path is None:
        return SourceView(source)
    name = os.path.abspath(source.path)
    try:
        name.encode()
    except UnicodeEncodeError:
        return open(name, "rb")  # closed with the container's last reference
    return name


def video_track(container: Any, source: Source | str) -> Any:
    """The video track to read: FFmpeg's choice (default tracks, then the highest bit rate), but never a cover picture.

    Args:
        container: as PyAV opened it.
        source: of the video, for messages.

    Raises:
        DecodeError: there is none.
    """
    tracks = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic
    ]
    if not tracks:
        kinds = ", ".join(sorted({stream.type or "data" for stream in container.streams})) or "nothing"
        if any(stream.disposition & Disposition.attached_pic for stream in container.streams.video):
            kinds = kinds.replace("video", "a cover picture")
        raise DecodeError(
            f"{source} has no video track that FFmpeg can decode; it holds {kinds} (accepted: a file with video). Check that it plays."
        )
    best = container.streams.best("video")
    return next((track for track in tracks if best is not None and track.index == best.index), tracks[0])


def _refused(source: Source, error: Exception) -> DecodeError:
    """The error for a file that FFmpeg cannot open: what it is, if its first bytes tell; otherwise FFmpeg's reason."""
    with source.open() as file:
        found = what_it_is(file.read(4096))
    if found is not None:
        kind, advice = found
        return DecodeError(
            f"{source} is {kind} (accepted: one video in one file, such as MP4, MKV, AVI or TS). {advice}"
        )
    if isinstance(error, av.error.ArgumentError):  # FFmpeg's error for a format that is not on the list
        return DecodeError(
            f"{source} is not in a container format of videos (accepted: MP4, MOV, MKV, WebM, AVI, TS, MPEG, FLV, WMV, …). "
            "If it plays, write it as one of these: `ffmpeg -i FILE video.mkv`."
        )
    return DecodeError(
        f"{source} cannot be read as a video: {reason(error)} (accepted: any codec that FFmpeg reads). "
        "Check that it plays, or copy it again."
    )


def reason(error: BaseException) -> str:
    """The text of an error of FFmpeg or the system, without numbers and names of functions."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
