"""The generated tables of docs/measured.md that come from a single measurement."""

from __future__ import annotations

import statistics

from markdown import Results, grid, link, machine_text, percent, points, source


def accuracy_table(results: Results) -> list[str]:
    """Teachers, fused teachers and students of one dataset."""
    rows = [
        (
            row["name"],
            ", ".join(row["streams"]),
            row["backbone"],
            percent(row["top1"]),
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['macs_per_video'] / 1e9:.1f}",
            "" if row["latency_ms"] is None else f"{row['latency_ms']['total']:.0f}",
        )
        for row in results["rows"]
    ]
    head = ("", "streams", "backbone", "top-1 % (95 %)", "parameters", "GMACs a video", "ms a video")
    lines = [f"### {results['title']}", "", results["note"], "", *grid(head, rows)]
    for comparison in results.get("comparisons", []):
        gain = points(comparison["top1_difference"]).strip("*")
        lines += ["", f"{comparison['a']} minus {comparison['b']}, same videos: {gain} points."]
    return [*lines, "", f"From {link(results)}, which lists the commands."]


def codec_table(results: Results) -> list[str]:
    """Ratios of the decoding layer to libavcodec and to its peers: generated clips at 340×256, and medians of real clips."""
    clips = results["clips"]
    generated = {name: clip for name, clip in clips.items() if "generated 340x256" in name}
    real = {name: clip for name, clip in clips.items() if "generated" not in name}
    columns = {
        f"{kind}, {title}": [clip["ratios"] for name, clip in some.items() if ending in name]
        for kind, some in (("generated", generated), ("real clips", real))
        for ending, title in (("mpeg4 GOP 12", "MPEG-4"), ("h264 GOP 12", "H.264"), ("as it is", "as they are"))
    }
    columns = {title: ratios for title, ratios in columns.items() if ratios}
    rows = []
    for ratio in dict.fromkeys(name for clip in clips.values() for name in clip["ratios"]):
        found = ([each[ratio] for each in ratios if ratio in each] for ratios in columns.values())
        rows.append((ratio, *(f"{statistics.median(values):.2f}" if values else "" for values in found)))
    return [
        "### Decoding speed",
        "",
        f"One decoding thread, {results['machine']['processor']}, {results['settings']['clock']} time, medians of "
        f"{results['settings']['repeats']}, taking turns in one run; load {results['machine']['load']:.1f} on "
        f"{results['machine']['cores']} cores. MPEG-4 and H.264: GOPs of 12, as `prepare` writes them. The JSON has each clip.",
        "",
        *grid(("", *columns), rows),
        "",
        source(results, "measurements/bench_codec.py"),
    ]


def latency_table(results: Results) -> list[str]:
    """Time by stage, throughput and ratios of all systems."""
    lines = [
        "### From file to label",
        "",
        f"One video at a time, {results['machine']['processor']}, {results['settings']['threads']} thread(s), medians over "
        f"{results['clips']} clips; weights are {results['weights']}.",
    ]
    for form, measured in results["forms"].items():
        stages = list(next(iter(measured["systems"].values()))["stages_ms"])
        rows = [
            (
                values["about"],
                f"{values['p50_ms']:.1f}",
                f"{values['p95_ms']:.1f}",
                *tuple(f"{values['stages_ms'][stage]:.1f}" for stage in stages),
                f"{values['videos_a_second']:.1f}" if "videos_a_second" in values else "",
            )
            for values in measured["systems"].values()
        ]
        head = (form, "p50 ms", "p95 ms", *stages, "videos a second")
        lines += ["", *grid(head, rows), ""]
        lines += grid(("ratio", form), [(name, f"{value:.2f}") for name, value in measured["ratios"].items()])
    return [*lines, "", source(results, results["command"])]


def short_latency_table(results: Results) -> list[str]:
    """Time and accuracy of the study's networks, in the training form, and the figure of both."""
    measured = results["forms"]["training form"]
    rows = [
        (
            values["about"],
            f"{values['p50_ms']:.0f}",
            f"{values['p95_ms']:.0f}",
            f"{sum(values['stages_ms'][stage] for stage in ('read', 'decode', 'streams')):.0f}",
            percent(measured["top1"][system]) if system in measured.get("top1", {}) else "",
            "yes" if system in measured.get("pareto_front", ()) else "",
        )
        for system, values in measured["systems"].items()
    ]
    head = ("file to label, one thread", "p50 ms", "p95 ms", "before the network", "top-1 % (95 %)", "on the front")
    return [
        "### Accuracy and time",
        "",
        f"The study's networks against other networks, one video at a time on one thread of {results['machine']['processor']}, "
        f"medians over {results['clips']} clips of UCF101 in the training form; accuracies from the study, hard labels for those on RGB frames and "
        "optical flow. On the front: no other is as fast and more accurate.",
        "",
        *grid(head, rows),
        "",
        "![Accuracy over time](pictures/accuracy-time.svg)",
        "",
        source(results, results["command"]),
    ]


def forms_table(results: Results) -> list[str]:
    """How good and how fast `predict` is in forms other than that of training."""
    rows = []
    for row in results["rows"]:
        top1, difference, prepared = row["top1"], row["difference"], row["form"] == "as prepared"
        rows.append(
            (
                row["form"],
                ", ".join(f"{n} {route}" if len(row["routes"]) > 1 else route for route, n in row["routes"].items()),
                *(f"{top1[name]['auto']:.1f}" for name in ("iframe", "motion", "residual", "fused")),
                "" if prepared else points({key: value / 100 for key, value in difference["fused"].items()}),
                "" if prepared else f"{top1['fused']['always']:.1f}",
                f"{row['ms']['auto']:.0f}",
                f"{row['times_as_fast']:.1f}×" if "times_as_fast" in row else "",
            )
        )
    of_networks = ("iframe", "motion", "residual", "fused", "points from the prepared clips (95 %)", "all transcoded")
    revision = results["settings"]["before"]
    before = f"; before: {revision[:7]}, which transcoded wherever GOPs, encoder or size differed" if revision else ""
    head = ("form", "route", *of_networks, "ms before the network", "times as fast as before")
    return [
        f"### {results['title']}",
        "",
        f"{results['note']} Top-1 in per cent; time of one core{before}.",
        "",
        *grid(head, rows),
        "",
        source(results, results["command"]),
    ]


def training_forms_table(results: Results) -> list[str]:
    """Size, speed and accuracy of forms of the training clips."""
    rows = [
        (
            f"`{row['form']}`",
            f"{row['bytes'] / 1e6:.0f}",
            *(f"{row[name]:.0f}" for name in ("prepare_seconds", "decode_us")),
            *(f"{row[name]:.1f}" for name in ("read_ms", "sample_ms")),
            *(percent(row["streams"][stream]) for stream in ("iframe", "motion", "residual")),
            percent(row["fused"]),
            points(row["fused_minus_first"]),
        )
        for row in results["rows"]
    ]
    columns = ("form", "MB", "prepare, s", "decoding, µs a frame", "one read, ms", "training sample, ms")
    head = (*columns, "iframe", "motion", "residual", "fused", "fused minus the first of its codec")
    return [
        f"### {results['title']}",
        "",
        results["note"],
        "",
        *grid(head, rows),
        "",
        source(results, results["command"]),
    ]


def quality_table(results: Results) -> list[str]:
    """Size, speed and accuracy at several qualities of the training form."""
    rows = [
        (
            str(row["quality"]) + (" (default)" if row["quality"] == results["settings"]["default_quality"] else ""),
            f"{row['bytes'] / 1e6:.0f}",
            f"{row['bytes'] / results['dataset']['source_bytes']:.2f}",
            f"{row['prepare_seconds']:.0f}",
            f"{row['read_ms']:.1f}",
            *(percent(row["streams"][stream]) for stream in ("iframe", "motion", "residual")),
            percent(row["fused"]),
            points(row["fused_minus_first"]),
        )
        for row in results["rows"]
    ]
    columns = ("quality", "MB", "of the sources", "prepare, s", "one read, ms", "iframe", "motion", "residual", "fused")
    head = (*columns, f"fused minus quality {results['rows'][0]['quality']}")
    return [
        f"### {results['title']}",
        "",
        results["note"],
        "",
        *grid(head, rows),
        "",
        source(results, "measurements/quality.py"),
    ]


def presets_table(results: Results) -> list[str]:
    """Accuracy and time of every preset, made small."""
    rows = [(f"teacher: {n}", percent(t["top1"]), "", "") for n, t in results["teachers"].items()]
    for name, preset in results["presets"].items():
        best = preset["entries"].get("fused") or next(iter(preset["entries"].values()))
        stopped = f"step {preset['stopped_after_step']} of {preset['steps']}"
        rows.append((f"`{name}`", percent(best["top1"]), f"{preset['cpu_seconds']:.0f}", stopped))
    head = ("preset", "top-1 % (95 %)", "seconds of one core", "stopped and resumed at")
    return [
        f"### {results['title']}",
        "",
        results["note"]
        + " Each is trained, stopped by SIGTERM, resumed, evaluated, exported and used; the JSON has the commands.",
        "",
        *grid(head, rows),
        "",
        source(results, results["command"]),
    ]


def step_table(results: Results) -> list[str]:
    """Ratios of training steps, and the project's limits."""
    measured = results["measured"]
    names = list(next(iter(measured.values()))["ratios"])
    rows = [(name, *(f"{each['ratios'][name]:.3f}" for each in measured.values())) for name in names]
    bars = [(name, f"{bar['value']:.3f}", "met" if bar["met"] else "missed") for name, bar in results["bars"].items()]
    return [
        "### A training step",
        "",
        f"{machine_text(results)}; {', '.join(f'{k} {v}' for k, v in results['settings'].items() if k in ('size', 'batch', 'segments', 'student', 'backbone', 'teachers'))}.",
        "",
        *grid(("", *measured), rows),
        "",
        *grid(("bar", "measured", ""), bars),
        "",
        source(results, results["command"]),
    ]


def data_table(results: Results) -> list[str]:
    """Transcoding against the ffmpeg program, and the loader's speed."""
    transcoding = [
        (codec, f"{each['times_as_fast']:.2f}", f"{each['videokd']['bytes'] / each['ffmpeg']['bytes']:.3f}")
        for codec, each in results["transcoding"].items()
        if isinstance(each, dict)
    ]
    loader = [
        (streams, workers, f"{each['samples_per_second']:.0f}", f"{each['ratio']:.2f}")
        for streams, by_workers in results["loader"].items()
        if isinstance(by_workers, dict)
        for workers, each in by_workers.items()
        if isinstance(each, dict)
    ]
    three = results["loader"]["iframe+motion+residual"]
    two, none = (three[workers]["samples_per_second"] for workers in ("2 workers", "0 workers"))
    return [
        "### Preparing and loading",
        "",
        f"{results['sample']['clips']} clips ({results['sample']['frames']} pictures), {results['machine']['processor']}.",
        "",
        *grid(("transcoding", "times as fast as one ffmpeg a clip", "bytes, ours over its"), transcoding),
        "",
        f"Two jobs over one, in clips a second: {results['jobs']['two_over_one']:.2f}.",
        "",
        *grid(("loader: streams", "workers", "samples a second", "of what codec and resize alone allow"), loader),
        "",
        f"Two workers load {two / none / 2:.2f} of twice what this process loads by itself, three streams.",
        "",
        source(results, "measurements/bench_data.py"),
    ]


def versions_table(results: Results) -> list[str]:
    """Training samples by this version against an earlier one."""
    rows = [
        (
            row["form"] if row["form"] == row["form_before"] else f"{row['form']}, before: {row['form_before']}",
            row["streams"].replace("+", ", "),
            f"{row['before_ms']:.1f} → {row['now_ms']:.1f}",
            f"{row['times_as_fast']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f})",
            row["equal"] if row["form"] == row["form_before"] else "other files",
        )
        for row in results["rows"]
    ]
    return [
        "### A training sample, against an earlier version",
        "",
        f"{results['settings']['segments']} segments of {results['settings']['size']} pixels, {results['settings']['clips']} clips, one core, {results['machine']['processor']}, both versions in turns in one run; "
        f"before: commit {results['before'][:7]}.",
        "",
        *grid(("form", "streams", "ms a sample", "times as fast (turns)", "equal arrays"), rows),
        "",
        source(results, results["command"]),
    ]


def peers_table(results: Results) -> list[str]:
    """A training sample of three streams against RGB frames by torchcodec."""
    rows = [
        (
            row["form"],
            f"{row['ms']['streams']:.1f}",
            *(f"{row['ms'][n]:.1f} ({x:.2f})" for n, x in row["times_as_fast"].items()),
        )
        for row in results["rows"]
    ]
    settings, names = results["settings"], results["rows"][0]["times_as_fast"]
    return [
        "### A training sample, against torchcodec's RGB frames",
        "",
        f"{settings['segments']} segments of {settings['clips']} clips at random places, files newly opened; videokd's three streams are cropped and scaled to {settings['size']} pixels. Milliseconds of one core, "
        f"{results['machine']['processor']}; in brackets how many times as fast the three streams are. torchcodec {results['versions']['torchcodec']}.",
        "",
        *grid(("form", "videokd, three streams", *(f"torchcodec, {name}" for name in names)), rows),
        "",
        source(results, results["command"]),
    ]


def fuzz_table(results: Results) -> list[str]:
    """What became of damaged files, route by route."""
    rows = []
    for route, outcomes in results["outcomes"].items():
        read = sum(count for outcome, count in outcomes.items() if outcome.startswith("read"))
        rows.append((route, str(read), str(sum(outcomes.values()) - read)))
    return [
        "### Damaged files",
        "",
        f"{results['variants']} damaged files, read by long-lived processes in every way: {len(results['failures'])} crashed, hung, or ended in "
        f"anything but a result or a `DecodeError` that names the file; worst {results['worst_seconds']:.2f} s a route and "
        f"{results['worst_mib_above_idle']:.0f} MiB above an idle process. Compiled loops checked each subscript; {results['twice']} files were read again "
        "with other bytes in free memory, and gave the same arrays.",
        "",
        *grid(("opened by", "read", "refused"), rows),
        "",
        source(results, "measurements/fuzz_codec.py"),
    ]


def precisions_table(results: Results) -> list[str]:
    """What bf16 changes where networks only predict."""
    rows = [
        (
            row["run"],
            f"{row['backbone']}, {row['size']}",
            " → ".join(f"{value:.1f}" for value in row["top1"]),
            f"{row['other_label']} of {row['clips']}",
            f"{row['error']:.3f}",
            f"{row['faster']:.2f}",
        )
        for row in results["rows"]
    ]
    head = (
        "test clips, streams",
        "backbone, pixels",
        "top-1 %: fp32 → bf16",
        "other label",
        "error / spread of logits",
        "times faster",
    )
    lines = [
        "### Precision",
        "",
        f"The same weights in fp32 and in bf16 (autocast), one core, {results['machine']['processor']}; the error is the root mean square over clips "
        "and classes, divided by the standard deviation of the logits.",
        "",
        *grid(head, rows),
    ]
    return [*lines, "", source(results, results["command"])]
