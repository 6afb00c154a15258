import pytest

from workers.contract.queue.jobs import STOPS
from workers.tiles.trade_off import output_weights


@pytest.mark.parametrize(
    ("trade_off", "expected"),
    [
        (0, (1, 0, 0)),
        (0.25, (0.5, 0.5, 0)),
        (0.5, (0, 1, 0)),
        (0.75, (0, 0.5, 0.5)),
        (1, (0, 0, 1)),
    ],
)
def test_the_slider_goes_from_psnr_over_fused_to_gan(
    trade_off: float, expected: tuple[float, float, float]
) -> None:
    assert output_weights(trade_off) == (*expected, 0)


def test_a_stop_needs_one_output_and_a_place_between_two() -> None:
    assert [sum(share > 0 for share in output_weights(stop)) for stop in STOPS.values()] == [1] * 3
    assert sum(share > 0 for share in output_weights(0.1)) == 2


@pytest.mark.parametrize("trade_off", [-0.01, 1.01, float("nan")])
def test_the_slider_has_two_ends(trade_off: float) -> None:
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        output_weights(trade_off)
