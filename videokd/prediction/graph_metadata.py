"""What a graph file says of its students, as texts: labels, inputs and fusion. With it, a single file is enough to predict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from videokd.errors import ConfigError
from videokd.files import is_utf8, parsed_json
from videokd.prediction.wanted import Wanted
from videokd.types import STREAMS, check_encoding, input_key

GRAPH_FORMAT = "videokd-graph"
GRAPH_VERSION = 1
_MOST = {"class_names": 1_000_000, "inputs": 256, "side": 4096, "num_segments": 1000}
_MOST_LETTERS, _MOST_BYTES = 50_000_000, 2**30


def graph_metadata(wanted: Wanted, *, fusion: Mapping[str, Any], videokd_version: str) -> dict[str, str]:
    """The texts that a graph file keeps beside its graph.

    Args:
        wanted: what the students want of a video.
        fusion: {"weights": {student: w}, "space": logits or probs}: how their logits were fused; the graph does it.
        videokd_version: of the package that writes the file.

    Returns:
        {key: text}: `format` and `videokd` as they are, everything else as JSON.

    >>> wanted = Wanted(("wave", "clap"), {"motion": ("motion", 64)}, 3)
    >>> texts = graph_metadata(wanted, fusion={"weights": {"a": 1.0}, "space": "logits"}, videokd_version="0.1.0")
    >>> texts["inputs"], texts["num_segments"]
    ('{"motion": ["motion", 64]}', '3')
    >>> wanted_of(texts) == wanted
    True
    """
    values = {
        "version": GRAPH_VERSION,
        "class_names": list(wanted.class_names),
        "inputs": {key: list(value) for key, value in wanted.inputs.items()},
        "num_segments": wanted.num_segments,
        "sees_order": wanted.sees_order,
        "encoding": dict(wanted.encoding),
        "fusion": dict(fusion),
    }
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    return {"format": GRAPH_FORMAT, "videokd": videokd_version} | texts


def wanted_of(metadata: Mapping[str, str]) -> Wanted:
    """What the students of a graph file want of a video.

    Args:
        metadata: its texts, from anybody.

    Raises:
        ConfigError: they are not what `graph_metadata` gives, or a number is out of range.
    """
    if metadata.get("format") != GRAPH_FORMAT:
        raise ConfigError(f"its format is {metadata.get('format', 'not given')!r:.80} (accepted: {GRAPH_FORMAT}).")
    version = _json(metadata, "version")
    if version != GRAPH_VERSION:
        raise ConfigError(f"its version is {version!r:.80} (accepted: {GRAPH_VERSION}).")
    class_names = _json(metadata, "class_names")
    sound = isinstance(class_names, list) and 1 <= len(class_names) <= _MOST["class_names"]
    if not sound or not all(isinstance(name, str) and name and is_utf8(name) for name in class_names):
        raise ConfigError(f"class_names is {class_names!r:.80} (accepted: a list of names, which UTF-8 can write).")
    sees_order = _json(metadata, "sees_order")
    if not isinstance(sees_order, bool):
        raise ConfigError(f"sees_order is {sees_order!r:.80} (accepted: true, false).")
    encoding = _json(metadata, "encoding")
    check_encoding(encoding)
    num_segments = _whole(_json(metadata, "num_segments"), "num_segments", most=_MOST["num_segments"])
    inputs = _inputs(_json(metadata, "inputs"))
    bytes_of_a_video = num_segments * sum(STREAMS[stream].channels * side**2 for stream, side in inputs.values())
    if bytes_of_a_video > _MOST_BYTES:
        raise ConfigError(
            f"num_segments is {num_segments}, with inputs of {bytes_of_a_video >> 20} MiB a video (accepted: up to {_MOST_BYTES >> 20} MiB)."
        )
    return Wanted(tuple(class_names), inputs, num_segments, sees_order, encoding)


def _inputs(value: Any) -> dict[str, tuple[str, int]]:
    if not isinstance(value, dict) or not 1 <= len(value) <= _MOST["inputs"]:
        raise ConfigError(f"inputs is {value!r:.80} (accepted: an object of 1 to {_MOST['inputs']} inputs).")
    inputs = {}
    for key, pair in value.items():
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] not in tuple(STREAMS):
            raise ConfigError(f"input {key:.40} is {pair!r:.80} (accepted: [one of {', '.join(STREAMS)}, side]).")
        inputs[key] = (str(pair[0]), _whole(pair[1], f"side of input {key:.40}", most=_MOST["side"]))
    main_size = max(side for _, side in inputs.values())
    for key, (stream, side) in inputs.items():
        if key != input_key(stream, side, main_size=main_size):
            accepted = input_key(stream, side, main_size=main_size)
            raise ConfigError(f"input {key!r:.40} is {stream} of {side} pixels (accepted: the key {accepted!r}).")
    return inputs


def _whole(value: Any, name: str, *, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ConfigError(f"{name} is {value!r:.80} (accepted: a whole number, 1 to {most}).")
    return value


def _json(metadata: Mapping[str, str], key: str) -> Any:
    text = metadata.get(key)
    if text is None or len(text) > _MOST_LETTERS:
        raise ConfigError(f"{key} is {'missing' if text is None else 'too long'} (accepted: a text of JSON).")
    try:
        return parsed_json(text)
    except ValueError as error:
        raise ConfigError(f"{key} is {text!r:.80} (accepted: JSON).") from error
