"""An MP4 that claims more samples than it has bytes is refused before FFmpeg reserves memory for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import videokd
from videokd.bitstream.sample_tables import check_tables
from videokd.bitstream.source import Source

CLAIMED = 1 << 25


def test_a_table_that_claims_more_than_the_file_holds(tmp_path: Path, make_clip) -> None:
    data = bytearray(make_clip("mpeg4").read_bytes())
    at = data.index(b"stsz") + 12
    data[at : at + 4] = (0x7FFFFFFF).to_bytes(4, "big")
    path = tmp_path / "claims.mp4"
    path.write_bytes(data)
    with pytest.raises(videokd.DecodeError, match=r"claims\.mp4 is damaged: its stsz table claims 2147483647 entries"):
        videokd.open(path)
    check_tables(Source(make_clip("mpeg4")))
    check_tables(Source(make_clip("mpeg4", container="avi")))


@pytest.fixture
def claiming(tmp_path: Path, make_clip) -> Path:
    """A clip whose stsz table says: every sample has 1 byte, and there are 2^25. Such a table has no entries to compare with."""
    data = bytearray(make_clip("mpeg4").read_bytes())
    at = data.index(b"stsz") + 8
    data[at : at + 8] = (1).to_bytes(4, "big") + CLAIMED.to_bytes(4, "big")
    path = tmp_path / "claims.mp4"
    path.write_bytes(data)
    assert path.stat().st_size < 1 << 20
    return path


def peak_mib(statement: str, path: Path) -> float:
    """The most memory that a process of its own takes, from before to after a statement."""
    program = (
        "import re, sys\nimport av, videokd\nfrom videokd.codec.opening import open_container\n"
        # Not ru_maxrss, which a child may inherit from its parent
        "def peak():\n    return int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])\n"
        "path = sys.argv[1]\nbefore = peak()\n"
        f"try:\n    {statement}\nexcept videokd.DecodeError as error:\n    assert 'claims {CLAIMED} entries' in str(error)\n"
        "print((peak() - before) / 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_not_reserved_for_samples_that_are_not_there(claiming: Path) -> None:
    """If FFmpeg no longer takes memory for them (the first line fails), the check is not needed any more."""
    assert peak_mib("av.open(path)", claiming) > 200
    assert peak_mib("open_container(path)", claiming) < 50
