import pytest

from dstack_vpn.core.limits.time_share import TimeShare


@pytest.mark.parametrize(("took", "pause"), [(0.0, 3.0), (0.01, 3.0), (0.015, 3.0), (0.02, 4.0)])
def test_the_pause_grows_with_the_cost_and_has_a_least(took: float, pause: float) -> None:
    assert TimeShare(parts=200, least=3.0).pause(took) == pytest.approx(pause)
