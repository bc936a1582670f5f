import pytest
import torch

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import capacity, check_warm_up, cyclical, warm_up


def test_warm_up_rises_linearly_to_one():
    assert [warm_up(s, 5) for s in (0, 1, 4, 5, 6, 100)] == [0, 0.2, 0.8, 1, 1, 1]
    assert warm_up(0, 0) == 1


def test_warm_up_of_a_sweep_has_one_length_per_run():
    lengths = torch.tensor([0, 4, 8])
    assert warm_up(2, lengths).tolist() == [1.0, 0.5, 0.25]
    assert warm_up(torch.tensor(6), lengths).tolist() == [1.0, 1.0, 0.75]
    assert warm_up(torch.tensor(0), 0).item() == 1.0


def test_cycles_ramp_and_stay():
    steps = range(11)
    expected = [0, 0.4, 0.8, 1, 1, 0, 0.4, 0.8, 1, 1, 1]
    assert [cyclical(s, 10, cycles=2) for s in steps] == pytest.approx(expected)
    together = cyclical(torch.arange(11), 10, cycles=2)
    assert together.tolist() == pytest.approx(expected)
    assert [cyclical(s, 4, cycles=1, ramp=1.0) for s in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]


def test_every_cycle_starts_at_zero():
    for total, cycles in ((1000, 10), (300, 3), (700, 7)):
        starts = [round(total / cycles) * c for c in range(cycles)]
        assert [cyclical(s, total, cycles=cycles) for s in starts] == [0.0] * cycles


def test_capacity_grows_to_its_target():
    assert [capacity(s, 4, 10.0) for s in (0, 2, 4, 9)] == [0, 5, 10, 10]
    targets = torch.tensor([10.0, 20.0])
    assert capacity(1, 4, targets).tolist() == [2.5, 5.0]


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"501 steps in a run of 500.*warm_up=500"):
        check_warm_up(501, 500)
    with pytest.raises(InvalidArgumentError, match="capacity_steps"):
        check_warm_up(-1, 500, "capacity_steps")
    check_warm_up(500, 500)
    check_warm_up(0, 0)


@pytest.mark.parametrize("options", [{"cycles": 0}, {"cycles": 9}, {"ramp": 0.0}, {"ramp": 1.5}])
def test_impossible_cycles_are_refused(options):
    with pytest.raises(InvalidArgumentError, match=next(iter(options))):
        cyclical(0, 8, **options)
