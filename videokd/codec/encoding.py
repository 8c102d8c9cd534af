"""How videos are encoded for training: the training form."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from videokd.errors import ConfigError

Codec = Literal["mpeg4", "h264"]

#: No encoder here takes more pixels on one side (MPEG-4's sizes have 13 bits).
LONGEST_SIDE = 8190
_QUALITY = {"mpeg4": (1, 3, 31), "h264": (0, 18, 51)}  # lowest number (best picture), default, highest number
_MAX_CLOCK = 65535  # MPEG-4's vop_time_increment_resolution has 16 bits
_FALLBACK_RATE = Fraction(25)


@dataclass(frozen=True)
class Encoding:
    """How videos are encoded for training.

    Args:
        codec: "mpeg4" (MPEG-4 part 2, as CoViAR uses) or "h264" (x264, about half the size, slower to decode).
        gop: pictures from one I-frame to the next.
        quality: the quantiser of mpeg4 (1 to 31; CoViAR's `-q:v 1` is the largest file), or the CRF of h264 (0 to 51);
            small is good. None: 3 for mpeg4, 18 for h264.
        short_side: pixels of the shorter side, even; the other follows, rounded down to even (4:3 gives 340×256).
        frame_rate: pictures a second that the file states; every picture is kept, so that motion is faster or slower than it was.
            None: the source's own.
        resample: pictures a second that the file has: pictures are dropped or repeated by time. None: every picture is kept.

    Raises:
        ConfigError: a value is out of its range.

    >>> Encoding(codec="h264").resolved_quality
    18
    """

    codec: Codec = "mpeg4"
    gop: int = 12
    quality: int | None = None
    short_side: int = 256
    frame_rate: float | None = None
    resample: float | None = None

    def __post_init__(self) -> None:
        if self.codec not in get_args(Codec):
            raise ConfigError(f"codec {self.codec!r} (accepted: {', '.join(get_args(Codec))}). Choose one of these.")
        best, _, worst = _QUALITY[self.codec]
        if self.quality is not None and not best <= self.quality <= worst:
            raise ConfigError(
                f"quality {self.quality} (accepted for {self.codec}: {best} to {worst}). Choose a number in that range."
            )
        if not 2 <= self.gop <= 600:
            raise ConfigError(f"gop {self.gop} (accepted: 2 to 600 pictures). CoViAR uses 12.")
        if not 16 <= self.short_side <= 4096 or self.short_side % 2:
            raise ConfigError(f"short_side {self.short_side} (accepted: even, 16 to 4096 pixels). CoViAR uses 256.")
        for name, rate in (("frame_rate", self.frame_rate), ("resample", self.resample)):
            if rate is not None and not 0.1 <= rate <= 1000:
                raise ConfigError(f"{name} {rate} (accepted: 0.1 to 1000 a second, or none to keep the source's).")
        if self.frame_rate is not None and self.resample is not None:
            raise ConfigError(
                f"frame_rate {self.frame_rate} and resample {self.resample} exclude each other (accepted: one of them). resample "
                "keeps the speed of motion; frame_rate keeps every picture."
            )

    @property
    def resolved_quality(self) -> int:
        """The quantiser or CRF in use: `quality`, or the codec's default."""
        return _QUALITY[self.codec][1] if self.quality is None else self.quality


def codec_options(encoding: Encoding) -> dict[str, str]:
    """Options of FFmpeg's encoder."""
    gop, quality = str(encoding.gop), str(encoding.resolved_quality)
    if encoding.codec == "h264":
        # mbtree's look-ahead gave other bytes now and then for the same small pictures; with short GOPs it saves nothing.
        fixed = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0:ref=1:weightp=0:mbtree=0"
        return {
            "flags": "+bitexact",
            "preset": "medium",
            "crf": quality,
            "forced-idr": "1",
            "a53cc": "0",
            "x264-params": fixed,
        }
    # `-q:v` of the ffmpeg program sets each frame's own quantiser, out of PyAV's reach; bounds that meet do the same.
    quantiser = {"qmin": quality, "qmax": quality, "i_qfactor": "1"}
    return {"flags": "+bitexact", "g": gop, "bf": "0", "sc_threshold": "1000000000", **quantiser}


def clock(rate: float | Fraction | None) -> Fraction:
    """A frame rate that every container and codec can state; 25 where the source states none that can be true."""
    if rate is None or not 0.01 <= rate <= 1000:
        return _FALLBACK_RATE
    near = Fraction(rate).limit_denominator(1001)
    return near if near.numerator <= _MAX_CLOCK else Fraction(round(near))
