"""The generated table of archives in docs/measured.md."""

from __future__ import annotations

from markdown import Results, grid, source

_BARS = {"two_against_one": 1.8, "one_against_parts": 0.9}


def archive_table(results: Results) -> list[str]:
    """`predict` on an archive: two processes against one, and one against its parts."""
    settings, seconds, ratios, machine = (results[name] for name in ("settings", "seconds", "ratios", "machine"))
    clips = settings["clips"]
    rows = [
        ("one process", f"{seconds['one']:.1f}", f"{clips / seconds['one']:.1f}", ""),
        (
            "two processes, against one",
            f"{seconds['two']:.1f}",
            f"{clips / seconds['two']:.1f}",
            f"{ratios['two_against_one']:.2f} (bar: {_BARS['two_against_one']})",
        ),
        (
            "decoding and network, measured separately and added, against one process",
            f"{seconds['decoding']:.1f} + {seconds['network']:.1f}",
            f"{clips / (seconds['decoding'] + seconds['network']):.1f}",
            f"{ratios['one_against_parts']:.2f} (bar: {_BARS['one_against_parts']})",
        ),
        ("one clip: what starting takes", f"{seconds['start']:.1f}", "", ""),
    ]
    steps = ", ".join(f"{name} {1000 * value:.0f}" for name, value in results["steps"].items())
    return [
        "### Labelling an archive",
        "",
        f"`videokd predict` on {clips} clips ({settings['different']} different ones), from the start of the command to its end; one thread in "
        f"each process. Students: {settings['students']}. {machine['processor']}, {machine['cores']} cores, load {machine['load']:.1f}; medians of "
        f"{settings['repeats']}. Milliseconds of the steps of a clip, two processes: {steps}.",
        "",
        *grid(("", "seconds", "clips a second", "ratio"), rows),
        "",
        source(results, "measurements/bench_predict_archive.py FOLDER"),
    ]
