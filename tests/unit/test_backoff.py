"""Sleeps between polls for messages."""

import pytest

from common.parallel.backoff import PollingBackoff


def test_a_nap_is_a_part_of_the_usual_time_between_messages(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("common.parallel.backoff.time.perf_counter", lambda: clock[0])
    backoff = PollingBackoff(shortest=2e-5, longest=1e-3, part=0.02)
    assert backoff.seconds() == 2e-5, "nothing is known yet"
    for _ in range(200):
        clock[0] += 0.01
        backoff.note_event()
    assert backoff.seconds() == pytest.approx(0.02 * 0.01, rel=1e-6)
    clock[0] += 0.03
    assert backoff.seconds() == pytest.approx(0.02 * 0.03), "longer while nothing comes"
    clock[0] += 60.0
    assert backoff.seconds() == 1e-3


def test_several_looks_before_a_nap(monkeypatch):
    slept = []
    monkeypatch.setattr("common.parallel.backoff.time.sleep", slept.append)
    backoff = PollingBackoff(polls=3)
    for _ in range(8):
        backoff.sleep()
    assert len(slept) == 2
    backoff.note_event()
    for _ in range(2):
        backoff.sleep()
    assert len(slept) == 2, "an event begins the polls anew"
