"""The place where windows wait to be labelled."""

from __future__ import annotations

import threading

from videokd.live.mailbox import Mailbox


def test_the_latest_of_a_source_that_does_not_wait_wins() -> None:
    box: Mailbox[str] = Mailbox(2)
    assert [box.put(0, item, may_wait=lambda: False) for item in "abc"] == [False, True, True]
    assert not box.put(1, "x", may_wait=lambda: False)
    assert box.take() == {0: "c", 1: "x"}
    assert box.take() == {}


def test_a_source_that_waits_loses_nothing() -> None:
    box: Mailbox[int] = Mailbox(1)

    def put_all() -> None:
        for item in range(20):
            assert not box.put(0, item, may_wait=lambda: True)
        box.close(0)

    thread = threading.Thread(target=put_all)
    thread.start()
    taken: list[int] = []
    while (items := box.take()) is not None:
        taken += items.values()
    thread.join()
    assert taken == list(range(20))


def test_what_waits_ends_when_it_is_told_to() -> None:
    box: Mailbox[int] = Mailbox(1)
    box.put(0, 1, may_wait=lambda: True)
    thread = threading.Thread(target=lambda: box.put(0, 2, may_wait=lambda: True))
    thread.start()
    box.stopped.set()
    thread.join(60)
    assert not thread.is_alive()
