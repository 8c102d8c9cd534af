"""The generated tables of docs/describe.md."""

from __future__ import annotations

from markdown import Results, grid, source

COMMAND = "measurements/describe_clips.py"


def speed_table(results: Results) -> list[str]:
    """Describing against decoding alone."""
    machine, settings = results["machine"], results["settings"]
    rows = [
        (name, clip["codec"], f"{clip['decoding_us']:.0f}", f"{clip['ratio']:.2f}")
        for name, clip in results["clips"].items()
    ]
    return [
        "### Speed",
        "",
        "Frames described a second, divided by frames decoded a second by libavcodec alone; the file is opened and indexed anew. "
        f"One core of {machine['processor']}, CPU time, medians of {settings['repeats']}, taking turns; load {machine['load']:.1f} on "
        f"{machine['cores']} cores.",
        "",
        *grid(("clip", "codec", "decoding alone, µs a frame", "describe / decoding alone"), rows),
        "",
        source(results, f"{COMMAND} speed"),
    ]


def flow_table(results: Results) -> list[str]:
    """Rank correlation of columns with optical flow."""
    settings, datasets = results["settings"], results["datasets"]
    names = [name for name in next(iter(datasets.values())) if name != "clips"]
    rows = [
        (
            f"{title}, {values['clips']} clips",
            *("–" if values[name] is None else f"{values[name]:.2f}" for name in names),
        )
        for title, values in datasets.items()
    ]
    return [
        "### Agreement with optical flow",
        "",
        "Rank correlation (Spearman) over clips between each column and the same number of OpenCV's DIS flow (preset medium) between "
        f"{settings['pairs']} pairs of neighbouring frames of each clip; a pixel whose flow is below {settings['still_below']} pixels is still. "
        "–: the column is the same for all clips.",
        "",
        *grid(("clips in the training form", *(f"`{name}`" for name in names)), rows),
        "",
        source(results, f"{COMMAND} flow"),
    ]


def cuts_table(results: Results) -> list[str]:
    """Cuts found in films whose cuts are known."""
    settings = results["settings"]
    rows = [
        (
            kind,
            encoder,
            str(found["cuts"]),
            f"{100 * found['found'] / found['cuts']:.0f} %",
            str(found["false"]),
            f"{100 * found['found'] / max(found['found'] + found['false'], 1):.0f} %",
        )
        for kind, encoders in results["films"].items()
        for encoder, found in encoders.items()
    ]
    return [
        "### Cuts found",
        "",
        f"{settings['films']} films of {settings['scenes']} scenes, of clips of UCF101, 0.3 to 2.4 seconds each, encoded "
        f"by FFmpeg with default settings; a cut counts as found up to {settings['late_frames']} frames late.",
        "",
        *grid(("after a cut", "encoder", "cuts", "found", "false", "of what is found, cuts"), rows),
        "",
        source(results, f"{COMMAND} cuts"),
    ]
