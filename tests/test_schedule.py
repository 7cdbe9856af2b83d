import pytest

from mxa_lite.credit.schedule import learning_roles, role, stage
from mxa_lite.recipe.keys import Schedule


def test_role_is_equation_9():
    """K = 3: floor(t/3) = 0 0 0 1 1 1 2, so E E E D D D E."""
    assert "".join(role(t, 3)[0] for t in range(7)) == "eeeddde"
    assert "".join(role(t, 3, "designer")[0] for t in range(7)) == "dddeeed"


def test_logged_step_s_uses_role_s_minus_1():
    """Period 30, steps counted from 1: 1..30 executor, 31..60 designer, 61 executor."""
    schedule = Schedule()
    roles = [learning_roles(schedule, step) for step in (1, 30, 31, 60, 61)]
    assert roles == [("executor",), ("executor",), ("designer",), ("designer",), ("executor",)]
    assert [stage(schedule, step) for step in (1, 30, 31, 60, 61)] == [0, 0, 1, 1, 2]


def test_period_one_alternates():
    schedule = Schedule(period=1)
    assert [learning_roles(schedule, s)[0] for s in (1, 2, 3)] == [
        "executor",
        "designer",
        "executor",
    ]


@pytest.mark.parametrize(
    ("mode", "roles"),
    [
        ("coupled", ("designer", "executor")),
        ("designer_only", ("designer",)),
        ("executor_only", ("executor",)),
    ],
)
def test_modes_without_stages(mode, roles):
    schedule = Schedule(mode=mode, period=2)
    assert {learning_roles(schedule, step) for step in range(1, 9)} == {roles}
    assert stage(schedule, 9) == 0
