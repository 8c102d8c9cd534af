"""The questions that the study answers, each a difference of two entries."""

from __future__ import annotations

from record import CODEC_STREAMS as STREAMS

#: An entry that stands for the three students one by one: the mean of their accuracies, which fusing has no part in.
EACH = "each"
#: (what is asked, a, b): a − b; a pair is a run and one of its entries.
Entry = tuple[str, str]
WAYS = (
    ("own teacher", "own"),
    ("fused teachers", "fused"),
    ("mutual learning", "mutual"),
    ("mutual learning and fused teachers", "mutual-fused"),
    ("exits", "exits"),
    ("everything", "everything"),
    ("teachers fused with fitted weights", "fitted"),
)
STUDENTS = (("students with hard labels", "hard"), ("distilled students", "fused"))
QUESTIONS: tuple[tuple[str, Entry, Entry], ...] = (
    ("two to one to one instead of equal weights", ("teachers", "fused 2:1:1 logits"), ("teachers", "fused 1:1:1 logits")),
    ("fitted instead of equal weights", ("teachers", "fused fitted logits"), ("teachers", "fused 1:1:1 logits")),
    ("probabilities instead of logits", ("teachers", "fused 1:1:1 probs"), ("teachers", "fused 1:1:1 logits")),
    ("own teacher over hard labels", ("own", "fused"), ("hard", "fused")),
    ("fused teachers over hard labels", ("fused", "fused"), ("hard", "fused")),
    ("fused teachers over own teacher", ("fused", "fused"), ("own", "fused")),
    ("mutual learning over hard labels", ("mutual", "fused"), ("hard", "fused")),
    ("mutual learning over none, both with fused teachers", ("mutual-fused", "fused"), ("fused", "fused")),
    ("exits over hard labels", ("exits", "fused"), ("hard", "fused")),
    ("everything over hard labels", ("everything", "fused"), ("hard", "fused")),
    ("everything over fused teachers alone", ("everything", "fused"), ("fused", "fused")),
    ("teachers fused with fitted weights over hard labels", ("fitted", "fused"), ("hard", "fused")),
    ("fitted instead of equal weights of the teachers that the students learn from", ("fitted", "fused"), ("fused", "fused")),
    ("students from teachers fused with fitted weights against these", ("fitted", "fused"), ("teachers", "fused fitted logits")),
    ("fused teachers over hard labels, clips mixed (mixup)", ("fused-mixup", "fused"), ("hard-mixup", "fused")),
    ("fused teachers over hard labels, twice as long", ("fused-longer", "fused"), ("hard-longer", "fused")),
    ("mixed clips (mixup) over plain ones, hard labels", ("hard-mixup", "fused"), ("hard", "fused")),
    ("mixed clips (mixup) over plain ones, fused teachers", ("fused-mixup", "fused"), ("fused", "fused")),
    ("twice as long over once, hard labels", ("hard-longer", "fused"), ("hard", "fused")),
    ("twice as long over once, fused teachers", ("fused-longer", "fused"), ("fused", "fused")),
    ("temperature 4 instead of that chosen", ("fused-T4", "fused"), ("fused", "fused")),
    ("DIST over KD, both from fused teachers", ("dist", "fused"), ("fused", "fused")),
    ("standardised over plain logits", ("standardised", "fused"), ("fused", "fused")),
    ("four students over three", ("four", "fused"), ("mutual-fused", "fused")),
    ("one student on all streams: fused teachers over hard labels", ("one-fused", "all"), ("one-hard", "all")),
    ("one student on all streams, twice as long: fused teachers over hard labels", ("one-fused-longer", "all"), ("one-hard-longer", "all")),
    ("one student on all streams, from the fused teachers, against these", ("one-fused", "all"), ("teachers", "fused 1:1:1 logits")),
    ("three students over one on all streams, both from the fused teachers", ("fused", "fused"), ("one-fused", "all")),
    *((f"{name} over hard labels, students one by one", (run, EACH), ("hard", EACH)) for name, run in WAYS),
    *((f"{stream} student: own teacher over hard labels", ("own", stream), ("hard", stream)) for stream in STREAMS),
    *((f"{stream} student: fused teachers over hard labels", ("fused", stream), ("hard", stream)) for stream in STREAMS),
    *((f"{stream} teacher alone over hard labels, all students", (f"from-{stream}", "fused"), ("hard", "fused")) for stream in STREAMS),
    *((f"{name} over the same backbone on RGB frames", (run, "fused"), ("two-stream", "rgb")) for name, run in STUDENTS),
    *((f"{name} over RGB frames and optical flow", (run, "fused"), ("two-stream", "fused")) for name, run in STUDENTS),
    ("distilled students over r2plus1d_18 on RGB frames", ("fused", "fused"), ("r2plus1d", "rgb")),
    ("distilled students against the fused teachers", ("fused", "fused"), ("teachers", "fused 1:1:1 logits")),
    ("distilled students, twice as long, against the fused teachers", ("fused-longer", "fused"), ("teachers", "fused 1:1:1 logits")),
    ("students with hard labels, twice as long, against the fused teachers", ("hard-longer", "fused"), ("teachers", "fused 1:1:1 logits")),
    ("everything against the fused teachers", ("everything", "fused"), ("teachers", "fused 1:1:1 logits")),
)  # fmt: skip
