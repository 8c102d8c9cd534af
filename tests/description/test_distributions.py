from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest

from tests.description.test_table import KNOWN, UNKNOWN
from videokd.description.distributions import write_distributions
from videokd.errors import ConfigError


def test_each_panel_states_its_median_and_what_is_unknown(tmp_path: Path) -> None:
    clip = KNOWN.description
    clips = [clip, replace(clip, motion=0.5), replace(clip, motion=0.0, cuts=0), UNKNOWN.description]
    with mpl.rc_context({"svg.fonttype": "none"}):  # letters, not their outlines
        write_distributions(clips, tmp_path / "d.svg")
    write_distributions([UNKNOWN.description], tmp_path / "unknown.png")
    assert (tmp_path / "unknown.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "d.svg").read_text(encoding="utf-8")
    shown = re.findall(r">([^<>\n]+)</text>", text)
    assert "motion, mean: heights a second (1 unknown); median 0.25" in shown
    assert "4 clips" in shown


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"d\.pdf \(accepted: a name that ends with \.svg or \.png\)"):
        write_distributions([KNOWN.description], tmp_path / "d.pdf")
