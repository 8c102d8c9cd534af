"""The generated tables of docs/scale.md: what large datasets take, from what bench_data and bench_scale measured.

`measurements/pages.py` writes them into the page.
"""

from __future__ import annotations

from typing import Any

from markdown import link
from record import newest_or_fail

NAMES = {"ucf101": "UCF101", "kinetics700": "Kinetics-700", "100 million clips": "100 million clips"}
ONE_MACHINE, CLUSTER = 64, 1000  # cores
MEMORY = 64e9  # bytes of a machine


def duration(seconds: float) -> str:
    """Two digits, in the unit that suits.

    >>> duration(4), duration(400), duration(9000), duration(1e6)
    ('4 s', '6.7 min', '2.5 h', '12 days')
    """
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{float(f'{seconds / length:.2g}'):,g} {unit}"
    return f"{float(f'{seconds:.2g}'):g} s"


def size(count: float) -> str:
    """Two digits, in the unit that suits.

    >>> size(9.5e9), size(1.1e14), size(1.9e6)
    ('9.5 GB', '110 TB', '1.9 MB')
    """
    unit, length = next((u, n) for u, n in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if count >= n)
    return f"{float(f'{count / length:.2g}'):,g} {unit}"


def count(number: float) -> str:
    """Two digits in words.

    >>> count(9.4e6), count(650_000), count(912)
    ('9.4 million', '650 thousand', '910')
    """
    for word, length in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if number >= length:
            return f"{float(f'{number / length:.2g}'):,g} {word}"
    return f"{float(f'{number:.2g}'):g}"


def preparing(data: dict[str, Any]) -> list[str]:
    """Core-hours and bytes of whole datasets."""
    gain = min(data["jobs"]["two_over_one"] / 2, 1)  # of each core, when all work
    lines = [
        f"| | clips | frames | core-hours | result | one machine, {ONE_MACHINE} cores | Ray, {CLUSTER:,} cores | H.264: core-hours | result |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, title in NAMES.items():
        whole = data["whole_datasets"][name]
        mpeg4, h264 = whole["mpeg4"], whole["h264"]
        seconds = 3600 * mpeg4["core_hours"]
        lines.append(
            f"| {title} | {whole['clips']:,} | {count(whole['frames'])} | {mpeg4['core_hours']:,.6g} | {size(1e9 * mpeg4['gigabytes'])} "
            f"| {duration(seconds / gain / ONE_MACHINE)} | {duration(seconds / gain / CLUSTER)} "
            f"| {h264['core_hours']:,.6g} | {size(1e9 * h264['gigabytes'])} |"
        )
    sample = data["sample"]
    return [
        *lines,
        "",
        f"From {sample['clips']} clips of {sample['frames']:,} frames ({data['settings']['source']}), by frames: making a clip, its index "
        f"and both its hashes, on one core of this machine ({data['machine']['processor']}). Two jobs were "
        f"{data['jobs']['two_over_one']:.2f} times as fast as one, which the columns with more cores take each pair of cores to be.",
    ]


def bookkeeping(data: dict[str, Any], scale: dict[str, Any]) -> list[str]:
    """What comes on top, for each dataset."""
    table, again = scale["manifest"], scale["prepare"]
    lines = [
        "| | manifest | reading it | memory of a process that has read it | listing the sources | a second `prepare` that finds nothing to do |",
        "|---|---|---|---|---|---|",
    ]
    for name, title in NAMES.items():
        clips = data["whole_datasets"][name]["clips"]
        lines.append(
            f"| {title} | {size(clips * table['bytes_per_clip'])} | {duration(clips * table['read_us_per_clip'] / 1e6)} "
            f"| {size(clips * table['memory_bytes_per_clip_at_most'])} | {duration(clips * again['list_us_per_clip'] / 1e6)} "
            f"| {duration(clips * again['resume_us_per_clip'] / 1e6)} |"
        )
    return [
        *lines,
        "",
        f"From a manifest of {scale['settings']['rows']:,} made-up rows of ten-second clips and a tree of "
        f"{scale['settings']['clips']:,} clips, on a local disk, files in its cache; a file system across the network adds its own time "
        "for three files a clip.",
    ]


def limits(data: dict[str, Any], scale: dict[str, Any]) -> list[str]:
    """Where something gives way, from the figures."""
    table, again, tasks = scale["manifest"], scale["prepare"], scale["tasks_per_wall_second"]
    whole = data["whole_datasets"]["kinetics700"]
    seconds_a_clip = 3600 * whole["mpeg4"]["core_hours"] / whole["clips"]
    rows = [
        f"- **Memory of `prepare`**: {again['resume_bytes_per_clip']:,} bytes a clip; a machine with {size(MEMORY)} lists and holds about "
        f"{count(MEMORY / again['resume_bytes_per_clip'])} clips.",
        f"- **Memory of training**: {table['memory_bytes_per_clip_at_most']:,} bytes a clip in each process; {size(MEMORY)} for one process "
        f"are {count(MEMORY / table['memory_bytes_per_clip_at_most'])} clips.",
        f"- **Handing out**: one driver hands out {tasks['local']:,} tasks a second to local processes",
    ]
    if tasks["ray"]:
        rows[-1] += (
            f", and {tasks['ray']:,} clips a second to Ray, in bundles of up to 16. With {seconds_a_clip:.2f} core-seconds a clip of "
            f"Kinetics-700 that is enough for {count(tasks['ray'] * seconds_a_clip)} cores"
        )
    rows[-1] += "."
    large = scale["large_sources"]
    rows.append(
        f"- **Large sources**: decoding and scaling 1280×720 costs {large['hd_over_small']:.1f} times as much a frame as 340×256; "
        "the table above is for small ones."
    )
    rows.append(
        f"- **Hashing** reads each source and each result once more, at {scale['hash_megabytes_per_second']:,} MB a core-second: "
        "included above; on cold or distant disks reading is what takes the time, and `--verify` reads everything."
    )
    three = data["loader"]["iframe+motion+residual"]["2 workers"]["samples_per_second"]
    rows.append(
        f"- **Feeding the network**: two workers give {three:.0f} samples a second (three streams, three segments, "
        f"{data['settings']['size']} pixels), so an epoch of Kinetics-700 takes {duration(2 * whole['clips'] / three / ONE_MACHINE)} of "
        f"{ONE_MACHINE} cores, and one of 100 million clips {duration(2 * 1e8 / three / ONE_MACHINE)}."
    )
    return rows


def lines() -> list[str]:
    """The generated part of docs/scale.md."""
    data, scale = newest_or_fail("bench_data"), newest_or_fail("bench_scale")
    return [
        "### Preparing",
        "",
        *preparing(data),
        "",
        "### Bookkeeping",
        "",
        *bookkeeping(data, scale),
        "",
        "### Limits",
        "",
        *limits(data, scale),
        "",
        f"From {link(data)} and {link(scale)}, by `measurements/pages.py`.",
    ]
