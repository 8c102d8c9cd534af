from __future__ import annotations

import pytest

from videokd.description.condition import Condition
from videokd.errors import ConfigError

CLIP = {
    "still": 0.5,
    "cuts": 1,
    "codec": "h264",
    "exact": True,
    "seconds": 4.0,
    "near_duplicate_of": None,
    "motion": 0.2,
}
FULFILLED = (
    "still < 0.9 and cuts == 1",
    "not still > 0.9",
    "exact",
    "exact and not cuts == 0",
    "0.1 < motion <= 0.2",
    "codec == 'h264' or still > 2",
    'codec != "hevc"',
    "(seconds - 1) * 2 / 3 + 1 >= 3",
    "near_duplicate_of == ''",
    "-motion < 0",
    "exact == True",
)


@pytest.mark.parametrize("text", FULFILLED)
def test_conditions_that_hold(text: str) -> None:
    assert Condition(text).why_not(CLIP) is None
    assert Condition(f"not ({text})").why_not(CLIP) is not None


def test_why_not_names_the_columns() -> None:
    assert Condition("still < 0.2 and cuts == 0").why_not(CLIP) == "cuts is 1, still is 0.5"
    assert Condition("1 / (cuts - 1) > 0").why_not(CLIP) == "it divides by zero"
    assert Condition(f"1.0 + cuts * 1{'0' * 307} > 0").why_not(CLIP | {"cuts": 20}) == "a number is too large"


def test_what_is_not_known_fulfils_nothing() -> None:
    unknown = CLIP | {"still": None}
    expected = "still is not known: its codec exports no motion vectors, or it has no P-frames"
    assert Condition("still < 0.9").why_not(unknown) == expected
    assert Condition("not still < 0.9").why_not(unknown) == expected
    assert Condition("codec == 'h264' or still < 0.9").why_not(unknown) is None
    assert Condition("codec == 'hevc' and still < 0.9").why_not(unknown) == "codec is h264, still is None"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stil < 0.9", "no column stil "),
        ("still <", "invalid syntax"),
        ("still", "neither true nor false"),
        ("codec < 3", "codec < 3 combines a number and a text"),
        ("codec + 'a' == 'b'", "codec + 'a' combines a number and a text"),
        ("open('x') == 1", "no column open"),
        ("(lambda: 1)() == 1", "is not allowed"),
        ("still.real < 1", "still.real is not allowed"),
        ("cuts in (1, 2)", "is not allowed"),
        ("2 ** 9 ** 9 > still", "is not allowed"),
        ("codec == b'h264'", "is not allowed"),
        ("hashes == 'a'", "no column hashes"),
        ("", "invalid syntax"),
        ("still < 1 and " * 100 + "exact", "longer than 1000 characters"),
        (f"still * {'9' * 400} > 1", "a number is too large"),
        (f"still < {'-' * 990}1", "nested"),
        ("still < 0.9and cuts == 0", "invalid decimal literal"),
        ("(" * 400 + "still" + ")" * 400 + " < 1", "nested"),
    ],
)
def test_everything_else_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Condition(text)
    assert said in str(error.value)
    assert "columns: path, bytes, seconds, width" in str(error.value)
