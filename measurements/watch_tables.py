"""The table of docs/measured.md on live streams."""

from __future__ import annotations

from markdown import Results, grid, source


def watch_table(results: Results) -> list[str]:
    """How many streams one core labels in real time, and how soon."""
    settings, machine = results["settings"], results["machine"]
    rows = [
        (
            f"{row['streams']}{' at once' if row['together'] else ''}",
            f"{min(row['windows'], row['windows_expected'])} of {row['windows_expected']}",
            f"{row['dropped_seconds']:.0f}",
            f"{1000 * row['from_packet']['p50']:.0f}",
            f"{1000 * row['from_packet']['p95']:.0f}",
            f"{1000 * row['from_sender']['p50']:.0f}",
            f"{1000 * row['from_sender']['p95']:.0f}",
            f"{100 * row['cpu_per_stream']:.1f}",
        )
        for row in results["rows"]
    ]
    head = (
        *("streams", "windows labelled", "dropped, s", "packet to label, p50 ms", "p95 ms"),
        *("sent to read, p50 ms", "p95 ms", "% of a core for each"),
    )
    busy = f"; the machine was busy with other work (load {machine['load']:.1f} on {machine['cores']} cores), which came after watch and sender (nice {settings['nice']})"
    return [
        "### Live streams",
        "",
        f"`videokd watch` on one core of {machine['processor']}{busy if machine['load'] > 1 else ''}. Streams of 320×240 at 25 pictures a second, H.264 "
        f"of {results['kilobits']} kbit/s as MPEG-TS over TCP, content: {settings['content']}; windows of {settings['window']:g} s every {settings['stride']:g} s, "
        f"{settings['segments']} places each. Students: {settings['students']}. "
        "Streams begin at different moments of a second, or all at once, so that their windows are due together. "
        "Packet to label: from when the last packet came that the label needs. Sent to read: from when the sender had sent that picture to when the line was read.",
        "",
        *grid(head, rows),
        "",
        source(results, results["command"]),
    ]


def fuzz_watch_table(results: Results) -> list[str]:
    """What came of damaged streams."""
    growth = results["growth"]
    rows = [
        *((name, str(count)) for name, count in sorted(results["outcomes"].items())),
        ("crashes, hangs and other errors", str(len(results["failures"]))),
        ("slowest, s", f"{results['slowest_seconds']:.1f}"),
        (
            "memory, MiB: a fifth of the way, at the end",
            f"{growth[len(growth) // 5]['mib']:.0f}, {growth[-1]['mib']:.0f}",
        ),
        ("threads: at the start, at the end", f"{growth[0]['threads']}, {growth[-1]['threads']}"),
        ("open files: at the start, at the end", f"{growth[0]['files']}, {growth[-1]['files']}"),
    ]
    return [
        "### Damaged streams",
        "",
        f"{results['streams']} streams through a pipe into the engine of `videokd watch`, in one process: odd and hostile files as they are, and generated clips, "
        "damaged at random.",
        "",
        *grid(("outcome", "streams"), rows),
        "",
        source(results, results["command"]),
    ]
