"""When a training is measured: as often as a share of its time allows, or after each of a number of steps."""

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from mofo.errors import UserError
from mofo.trainers.pace import EVERY, SHARE, Pace
from reference.processes import Processes


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def measured(every, steps, step_seconds, measurement_seconds):
    """The steps of a training after which it is measured, and at each what that added to its time."""
    clock = Clock()
    pace = Pace(every, clock)
    clock.now += 500  # measuring the base
    pace.begin()
    began, spent, found = clock.now, 0.0, {}
    for step in range(1, steps + 1):
        clock.now += step_seconds
        if pace.is_due(step):
            with pace.measuring():
                clock.now += measurement_seconds
            spent += measurement_seconds
            found[step] = spent / (clock.now - began - spent)
    return found


@given(cost=st.floats(0.01, 100), steps=st.integers(1, 3000))
def test_measurements_after_the_first_keep_within_the_share_and_come_as_often_as_it_allows(cost, steps):
    """`cost` is the steps that a measurement takes the time of."""
    found = measured(None, steps, 1.0, cost)
    assert all(step % EVERY == 0 for step in found)
    first, *later = found or [None]
    assert first == (EVERY if steps >= EVERY else None)
    assert all(found[step] <= SHARE * (1 + 1e-9) for step in later)
    for number, step in enumerate(later, 2):
        earlier = step - EVERY
        if earlier not in found:  # an interval sooner it would have been too much
            assert number * cost > SHARE * earlier * (1 - 1e-9)


def test_small_steps_are_measured_less_often_and_large_ones_every_fifty():
    assert list(measured(None, 800, 1.0, 3.7)) == [50, 400, 600, 750]
    assert list(measured(None, 300, 1.0, 0.5)) == [50, 100, 150, 200, 250, 300]


def test_a_number_of_steps_is_kept_whatever_it_costs():
    assert list(measured(3, 10, 1.0, 1000.0)) == [3, 6, 9]


def test_no_number_of_steps_is_refused():
    with pytest.raises(UserError, match="every is 0, expected a number of steps of at least 1"):
        Pace(0)


def slower_by_rank():
    return measured(None, 400, 1.0, 0.5 + 3 * dist.get_rank())


@pytest.mark.processes
def test_processes_measure_after_the_same_steps_though_their_clocks_differ(tmp_path):
    with Processes(2, tmp_path) as processes:
        first, other = processes.run(slower_by_rank)
    assert list(first) == list(other) == list(measured(None, 400, 1.0, 0.5))
