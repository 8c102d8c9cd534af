"""Pictures that a report may show: PNG files of the run itself, by bare name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from videokd.drawing.picture import save_picture
from videokd.errors import DataError
from videokd.evaluation.examples import named_picture, png_of


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../a.png",
        "../../etc/a.png",
        "a/b.png",
        "a\\b.png",
        "a.svg",
        ".png/..",
        "",
        "a.png\0",
        "C:a.png",
        "..",
        "a.PNG/",
    ],
)
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="accepted: the bare name of a PNG file"):
        named_picture(tmp_path, name)


def test_only_png_files_of_the_run(tmp_path: Path) -> None:
    picture = save_picture(np.zeros((4, 6, 3), np.uint8), tmp_path / "run" / "pictures" / "a.png")
    assert png_of(named_picture(tmp_path / "run", "a.png")) == picture.read_bytes()
    secret = save_picture(np.zeros((4, 6, 3), np.uint8), tmp_path / "secret.png")
    (picture.parent / "link.png").symlink_to(secret)
    (picture.parent / "text.png").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (picture.parent / "empty.png").touch()
    (picture.parent / "cut.png").write_bytes(picture.read_bytes()[:20])
    (picture.parent / "huge.png").write_bytes(picture.read_bytes() + bytes(21_000_000))
    wide = bytearray(picture.read_bytes())
    wide[16:20] = (10**6).to_bytes(4, "big")
    (picture.parent / "wide.png").write_bytes(wide)
    (picture.parent / "folder.png").mkdir()
    (tmp_path / "run" / "other").symlink_to(tmp_path)
    for name in ("link", "text", "empty", "cut", "huge", "wide", "folder", "missing"):
        with pytest.raises(DataError, match=f"{name}.png is not a picture of a run"):
            png_of(picture.parent / f"{name}.png")
    (tmp_path / "other-run").mkdir()
    (tmp_path / "other-run" / "pictures").symlink_to(tmp_path)
    with pytest.raises(DataError, match="is not a picture of a run"):
        png_of(tmp_path / "other-run" / "pictures" / "secret.png")
