"""Markdown and YAML that names of users cannot break: of classes, datasets, folders and networks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from videokd.errors import printable

#: What means something in the middle of a line of Markdown, GitHub's and the Hub's extensions included.
_SPECIAL = re.compile(r"""[\\`*_{}\[\]<>#|&~$!:@"]|(?<=www)\.""", re.IGNORECASE)
#: What means something at the start of a line: a list, a rule, a title.
_LINE_START = re.compile(r"^(?:[-+=]|\d+[.)](?=\s|$))")


def in_markdown(text: object) -> str:
    """A text as it stands in Markdown: a word of a line or of a table's cell, without markup, HTML, links or mentions.

    >>> print(in_markdown("<b>a|b</b>"), in_markdown("- x: *y*"))
    \\<b\\>a\\|b\\</b\\> \\- x\\: \\*y\\*
    """
    escaped = _SPECIAL.sub(lambda found: f"\\{found.group()}", printable(" ".join(str(text).split())))
    return _LINE_START.sub(lambda found: f"{found.group()[:-1]}\\{found.group()[-1]}", escaped) or "–"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of GitHub's Markdown; the first column is text, the others numbers.

    Args:
        columns: their titles, which are Markdown already.
        rows: texts and numbers, which are escaped.

    >>> print(table(["class", "videos"], [["a|b", 3]]))
    | class | videos |
    |---|--:|
    | a\\|b | 3 |
    """
    lines = [columns, *([in_markdown(cell) for cell in row] for row in rows)]
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|---" + "|--:" * (len(columns) - 1) + "|", *body])


def fenced(text: str, language: str) -> str:
    """A block of code, in a fence that the text does not close; each of its lines is safe to print.

    >>> print(fenced("a ``` b", "bash"))
    ````bash
    a ``` b
    ````
    """
    lines = [printable(line) for line in text.rstrip("\n").split("\n")]
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}{language}", *lines, fence])


def folded(summary: str, content: str) -> str:
    """Content that is shown when a reader asks for it.

    Args:
        summary: plain words.
        content: Markdown.
    """
    return f"<details>\n<summary>{summary}</summary>\n\n{content}\n\n</details>"


def front_matter(values: Mapping[str, Any]) -> str:
    """Values as the YAML between two lines of dashes that a model card starts with; texts on one line each."""
    # A width without an end: a text that is folded could begin a line with three dashes
    text = yaml.safe_dump(with_texts(values, printable), sort_keys=False, allow_unicode=True, width=10**9)
    return f"---\n{text}---\n"


def with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A value, of mappings and lists inside each other, with each text in it changed; keys stay.

    Args:
        value: as JSON or YAML can hold it.
        change: gives the new text.

    >>> with_texts({"a": ["b", 1]}, str.upper)
    {'a': ['B', 1]}
    """
    if isinstance(value, Mapping):
        return {key: with_texts(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
