"""The table of docs/measured.md on runtimes."""

from __future__ import annotations

from markdown import Results, grid, machine_text, source


def runtimes_table(results: Results) -> list[str]:
    """Starts, times and accuracies of students by PyTorch, by ONNX Runtime, and in 8 bits."""
    starts = [
        (runtime, f"{wall:.1f}", f"{busy:.1f}", f"{found['to_pytorch'][0]:.2f}", f"{found['to_pytorch'][1]:.2f}")
        for runtime, found in results["start"].items()
        for wall, busy in [found["seconds"]]
    ]
    head = ("`predict` on one file, a new process", "seconds", "of them busy", "to PyTorch", "busy, to PyTorch")
    rows = [
        (
            f"{row['run']}: {row['students']} ({row['parameters'] / 1e6:.1f} M)",
            runtime,
            f"{found['ms']:.1f}",
            f"{found['to_pytorch']:.2f}",
            f"{found['to_fp32']:.2f}",
            f"{found['top1']:.1f}",
            f"{found['same_as_pytorch']:.1f}",
            f"{found['megabytes']:.1f}",
        )
        for row in results["rows"]
        for runtime, found in row["runtimes"].items()
    ]
    columns = ("students", "by", "ms a video", "to PyTorch", "to ONNX Runtime", "top-1 %", "same label %", "MB")
    clips = ", ".join(dict.fromkeys(str(row["test_clips"]) for row in results["rows"]))
    return [
        "### Without PyTorch, and in 8 bits",
        "",
        f"{machine_text(results)}. Medians; the runtimes take turns, and ratios are of one turn. A video is its streams to probabilities, in one thread; accuracy "
        f"is on {clips} test clips of UCF101's six classes.",
        "",
        *grid(head, starts),
        "",
        *grid(columns, rows),
        "",
        _summary(results),
        "",
        source(results, "measurements/bench_runtimes.py"),
    ]


def _summary(results: Results) -> str:
    """What 8 bits lose over all runs together, and run by run."""
    rows = results["rows"]
    total = sum(row["test_clips"] for row in rows)
    lost = [row["runtimes"]["ONNX Runtime"]["top1"] - row["runtimes"]["ONNX Runtime, int8"]["top1"] for row in rows]
    covered = ", ".join(f"{row['int8']['range_percent']:g} %" for row in rows)
    differences = ", ".join(f"{100 * row['int8']['logit_error']:.1f}" for row in rows)
    together = sum(points * row["test_clips"] for points, row in zip(lost, rows, strict=True)) / total
    return (
        f"Over all {total} predictions, 8 bits lose {together:.1f} points; run by run, {', '.join(f'{points:.1f}' for points in lost)} (below 0: a gain). One clip is "
        f"{100 / rows[0]['test_clips']:.1f} points. The ranges of activations cover {covered} of the values: each export chose among 99.9, 99.99 and 100 by the "
        f"logits of training clips that had measured no range, where they differ by {differences} % from those in 32 bits."
    )
