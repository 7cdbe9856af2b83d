import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from mxa_lite.evidence.stats import interval, paired, total_variation, two_level


def test_no_questions_have_no_mean():
    assert interval([]) == (0.0, 0.0, 0.0)


def test_equal_values_leave_no_room():
    assert interval([0.5] * 7) == (0.5, 0.5, 0.5)
    assert two_level([[0.5] * 3, [0.5] * 3]) == (0.5, 0.5, 0.5)


def test_two_questions_worked_by_hand():
    # a resample of (0, 1) has mean 0 with chance 1/4 and 1 with chance 1/4: both ends are reached
    assert interval([0, 1]) == (0.5, 0.0, 1.0)


def test_four_questions_worked_by_hand():
    # one of four is right: the mean is 3/4 or more with chance 13/256 = 5.1 % and 1 with 0.4 %,
    # so the upper end is 3/4; no right one at all has chance (3/4)^4 = 32 %, so the lower is 0
    assert interval([1, 0, 0, 0]) == (0.25, 0.0, 0.75)


def test_a_paired_difference_forgets_how_hard_the_questions_are():
    easy_and_hard = [1.0, 0.0] * 8
    better = [1.0, 0.25] * 8
    mean, low, high = paired(easy_and_hard, better)
    assert mean == 0.125
    # the differences are 0 and 0.25, half each: sd of the mean is 0.125 / 4 = 0.031
    assert low == pytest.approx(0.125 - 1.96 * 0.03125, abs=0.02)
    assert high == pytest.approx(0.125 + 1.96 * 0.03125, abs=0.02)
    assert low > 0 > interval(better)[1] - interval(easy_and_hard)[2]


def test_paired_needs_the_same_questions():
    with pytest.raises(ValueError, match="zip"):
        paired([1, 2], [1])


def test_seeds_that_differ_widen_the_interval():
    # every question gives the same value within a seed: only the seeds matter, as in (0, 1)
    assert two_level([[0.0] * 50, [1.0] * 50]) == (0.5, 0.0, 1.0)
    pooled = interval([0.0] * 50 + [1.0] * 50)
    assert pooled[2] - pooled[1] < 0.3


def test_two_level_agrees_with_every_resample_counted():
    values = np.array([[0.0, 1.0], [1.0, 1.0]])
    means = sorted(
        values[np.ix_(s, q)].mean()
        for s in itertools.product(range(2), repeat=2)
        for q in itertools.product(range(2), repeat=2)
    )
    assert means.count(0.0) == 1 and means.count(1.0) == 7  # of 16
    assert two_level(values.tolist()) == (0.75, 0.0, 1.0)


def test_same_seeds_cancel_what_a_seed_does_to_both():
    low, high = [[0.0] * 9, [0.8] * 9], [[0.1] * 9, [0.9] * 9]
    assert two_level(high, minus_SQ=low, same_seeds=True) == pytest.approx((0.1, 0.1, 0.1))
    mean, bottom, top = two_level(high, minus_SQ=low)
    assert (mean, bottom, top) == pytest.approx((0.1, -0.7, 0.9))


def test_other_numbers_of_seeds_can_be_compared_but_not_other_questions():
    assert two_level([[1.0, 1.0]], minus_SQ=[[0.0, 0.0]] * 3) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="do not pair"):
        two_level([[1.0, 1.0]], minus_SQ=[[0.0]])
    with pytest.raises(ValueError, match="do not pair"):
        two_level([[1.0]], minus_SQ=[[0.0]] * 2, same_seeds=True)


def test_total_variation_by_hand():
    # half of |0.5 - 0.2| + |0.5 - 0| + |0 - 0.8|
    assert total_variation({"vote": 0.5, "judge": 0.5}, {"vote": 0.2, "chain": 0.8}) == 0.8
    assert total_variation({"vote": 1.0}, {"vote": 1.0}) == 0.0
    assert total_variation({"vote": 1.0}, {"chain": 1.0}) == 1.0


def test_total_variation_has_the_same_bits_in_every_process():
    """The sum of these shares has other bits in other orders, and a set another order each time."""
    code = (
        "from mxa_lite.evidence.stats import total_variation as t;"
        "print(t({f'p{i}': 0.1 / (i + 1) for i in range(40)}, {}))"
    )
    sums = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in range(1, 6)
    }
    assert len(sums) == 1
