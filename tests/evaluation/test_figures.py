from __future__ import annotations

import random
import xml.etree.ElementTree as ElementTree

from videokd.evaluation.figures import Point, confusion_figure, cost_figure, curves_figure, pareto_front, short_number


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1))
    return [element.text or "" for element in root.iter("text")]


def test_the_front_holds_just_the_points_that_nothing_beats() -> None:
    rng = random.Random(0)
    points = [Point(str(n), "student", rng.randint(1, 9), rng.randint(50, 60), 0, 100) for n in range(40)]
    unbeaten = {
        (point.cost, point.accuracy)
        for point in points
        if not any(
            other.cost <= point.cost
            and other.accuracy >= point.accuracy
            and (other.cost, other.accuracy) != (point.cost, point.accuracy)
            for other in points
        )
    }
    front = [(point.cost, point.accuracy) for point in pareto_front(points)]
    assert front == sorted(unbeaten)


def test_numbers_are_short() -> None:
    expected = {
        0.5: "0.5",
        7: "7",
        999: "999",
        999.9: "1 k",
        1500: "1.5 k",
        999_950: "1 M",
        2_350_000: "2.35 M",
        4e12: "4 T",
    }
    assert {value: short_number(value) for value in expected} == expected


def test_figures_name_their_parts_and_no_address() -> None:
    points = [Point("small & fast", "student", 1e9, 90, 88, 92), Point("$large_$", "anything", 5e9, 95, 93, 97)]
    cost = cost_figure(points, cost="MACs per video")
    curves = curves_figure({"loss/total": [(0, 2.0), (1, 1.0)], "a/total": [(0, 3.0)]}, across="epoch", up="total loss")
    confusion = confusion_figure([[17, 3], [0, 21]], ["<jump>", "$run^$"], title="small")
    assert {"small & fast", "$large_$", "MACs per video", "top-1 accuracy, %"} <= set(texts(cost))
    assert {"loss/total", "a/total", "epoch", "total loss"} <= set(texts(curves))
    assert {"17", "3", "21", "<jump>", "$run^$"} <= set(texts(confusion))
    assert "0" not in texts(confusion)
    for svg in (cost, curves, confusion):
        assert "http" not in svg
        assert "var(--faint)" in svg


def test_a_large_matrix_has_names_and_no_counts() -> None:
    names = [f"class{number}" for number in range(40)]
    svg = confusion_figure([[int(row == column) for column in range(40)] for row in range(40)], names, title="large")
    assert sorted(texts(svg)) == sorted(2 * names)
