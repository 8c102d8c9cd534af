from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.small_datasets import digests, listing, write_clip
from videokd.datasets.manifest import Manifest
from videokd.errors import ConfigError, DataError, DecodeError
from videokd.jobs.workers import Workers
from videokd.preparation.prepare_dataset import prepare
from videokd.transcoding.mp4_writer import Encoding

SMALL = Encoding(short_side=32)


def halve(number: int) -> int:
    """A task that fails in two ways."""
    if number < 0:
        raise DataError(f"{number} is negative")
    if number % 2:
        raise DecodeError(f"{number} is odd")
    return number // 2


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_task_has_its_outcome(jobs: int) -> None:
    outcomes = dict(Workers(jobs=jobs).outcomes(halve, range(40)))
    assert set(outcomes) == set(range(40))
    for number, outcome in outcomes.items():
        assert str(outcome) == (f"{number} is odd" if number % 2 else str(number // 2))


@pytest.mark.parametrize("jobs", [1, 2])
def test_other_errors_end_the_run(jobs: int) -> None:
    with pytest.raises(DataError, match="-2 is negative"):
        list(Workers(jobs=jobs).outcomes(halve, (2, 4, -2, 6)))


def test_no_task_needs_no_worker() -> None:
    assert list(Workers("ray", address="nowhere:1").outcomes(halve, ())) == []


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"engine 'spark' \(accepted: local, ray\)"):
        Workers("spark")
    with pytest.raises(ConfigError, match=r"address auto needs the engine ray \(given: local\)"):
        Workers(address="auto")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"engine ray needs Ray. Install it with `pip install videokd\[ray\]`"):
        list(Workers("ray").outcomes(halve, (2,)))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a CPU each, on this machine."""
    pytest.importorskip("ray", reason="needs Ray: pip install videokd[ray]")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def ray_workers() -> list[int]:
    """Processes below this one in which Ray runs a task just now."""
    found, waiting = [], [os.getpid()]
    while waiting:
        parent = waiting.pop()
        try:
            tasks = list(Path(f"/proc/{parent}/task").iterdir())
            children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
        except OSError:
            continue
        for pid in children:
            waiting.append(pid)
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::") and b"IDLE" not in title:
                found.append(pid)
    return found


@pytest.mark.slow
def test_a_ray_cluster_does_the_same(cluster: Any, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install videokd[ray]")
    workers = Workers("ray", address=cluster.address)
    assert {number: str(outcome) for number, outcome in workers.outcomes(halve, range(6))} == {
        number: f"{number} is odd" if number % 2 else str(number // 2) for number in range(6)
    }
    with pytest.raises(DataError, match="-2 is negative"):
        list(workers.outcomes(halve, (-2,)))
    with pytest.raises(ConfigError, match=r"no Ray cluster at 127.0.0.1:1 \(.+\). Start one with `ray start --head`"):
        list(Workers("ray", address="127.0.0.1:1").outcomes(halve, (2,)))


def deadly(task: tuple[int, str]) -> int:
    """A task that ends its worker if its number is 8, and notes the others."""
    number, folder = task
    if number == 8:
        os._exit(9)
    with (Path(folder) / str(number)).open("a") as file:
        file.write("done\n")
    return number


@pytest.mark.slow
def test_a_deadly_task_costs_its_bundle_nothing(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videokd.jobs.workers._BUNDLES_PER_CPU", 2)
    tasks = [(number, str(tmp_path)) for number in range(30)]
    outcomes = dict(Workers("ray", address=cluster.address).outcomes(deadly, tasks))
    assert len(outcomes) == 30
    for (number, _), outcome in outcomes.items():
        if number == 8:
            assert re.fullmatch(r"4 Ray workers died with this file. Remove the file, .*", str(outcome))
        else:
            assert outcome == number
    # It came before the deadly one in a bundle, whose tasks were taken again
    assert (tmp_path / "7").read_text().count("\n") > 1


@pytest.mark.slow
def test_a_killed_ray_worker_loses_no_clip(cluster: Any, tmp_path: Path) -> None:
    for number in range(40):
        write_clip(tmp_path / f"in/{'ab'[number % 2]}/x_g{number // 2:02d}_c1.mp4", num_frames=60, seed=number)
    listed, encoding = listing(tmp_path / "in"), Encoding(short_side=480)
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 120
        while not killed and time.monotonic() < deadline:
            if len(list((tmp_path / "out/.rows").glob("*/*.json"))) >= 4 and (found := ray_workers()):
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    prepare(listed, tmp_path / "out", encoding=encoding, workers=Workers("ray", address=cluster.address))
    killer.join()
    assert killed
    prepare(listed, tmp_path / "reference", encoding=encoding, workers=Workers(jobs=2))
    assert len(Manifest.read(tmp_path / "out").clips) == 40
    assert digests(tmp_path / "out") == digests(tmp_path / "reference")
    assert [path.name for path in (tmp_path / "out").rglob("*.part")] == []
