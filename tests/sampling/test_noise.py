"""Noise of samples that are drawn together: which of it is whose, and what is left of it when some are taken out."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch

from sdescore import VPSDE, GaussianMixture, Noise, sample
from sdescore.sampling.brownian import Brownian
from sdescore.sampling.noise import WhiteNoise
from sdescore.solvers import AdaptiveSDE


@pytest.mark.parametrize("shape", [(3,), (3, 32, 32), (3, 160, 160)])
def test_neighbours_share_generators_but_no_numbers(shape: tuple[int, ...]) -> None:
    numbers = [70, 3, 64, 65, 63, 300]
    drawn = WhiteNoise(0, numbers).randn(torch.zeros(len(numbers), *shape, dtype=torch.float64))
    assert drawn.shape == (len(numbers), *shape)
    for number, row in zip(numbers, drawn, strict=True):
        assert torch.equal(WhiteNoise(0, [number]).randn(drawn[:1])[0], row)
    assert len(drawn.flatten().unique()) == drawn.numel()
    assert not torch.equal(WhiteNoise(1, [70]).randn(drawn[:1])[0], drawn[0])


@pytest.mark.parametrize(
    "numbers", [range(128), range(64, 128), range(60, 70), range(64, 65), range(63, -1, -1), [5] * 64]
)
def test_groups_and_parts_of_them(numbers: Sequence[int]) -> None:
    """64 of these samples share a generator."""
    x, index = torch.zeros(200, 3, 32, 32), torch.tensor(numbers)
    plain, whole, part = WhiteNoise(0, range(200)), WhiteNoise(0, range(200)), WhiteNoise(0, numbers)
    first, second = plain.randn(x), plain.randn(x)
    assert torch.equal(part.randn(x[index]), first[index])
    whole.randn(x)
    assert torch.equal(whole.select(index).randn(x[index]), second[index])
    assert torch.equal(part.randn(x[index]), second[index])


@pytest.mark.parametrize("source", [WhiteNoise, Brownian(VPSDE())])
def test_what_is_drawn_may_be_overwritten(source: Callable[[int, Sequence[int]], Noise]) -> None:
    x, times = torch.zeros(3, 2, dtype=torch.float64), torch.tensor([1.0, 0.5, 0.25, 0.1], dtype=torch.float64)
    kept, overwritten = source(0, range(3)), source(0, range(3))
    for t, s in pairwise(times):
        for expected, found in zip(
            *([noise(x, t, s), noise.levy_area(x, t, s), noise.randn(x)] for noise in (kept, overwritten)), strict=True
        ):
            assert torch.equal(found, expected)
            found.zero_()


@pytest.mark.parametrize("source", [WhiteNoise, Brownian(VPSDE())])
def test_a_spread_multiplies_it(source: Callable[[int, Sequence[int]], Noise]) -> None:
    x, (t, s) = torch.zeros(20, 40), torch.tensor([0.5, 0.25], dtype=torch.float64)
    unit, louder = source(0, range(20)), source(0, range(20))
    torch.testing.assert_close(louder(x, t, s, 2.5), 2.5 * unit(x, t, s))
    torch.testing.assert_close(louder.randn(x, 0.3), 0.3 * unit.randn(x))
    assert torch.equal(louder(x, t, s, 0.0), torch.zeros_like(x))


def test_a_selection_goes_on_and_the_whole_begins_anew() -> None:
    x = torch.zeros(6, 4, dtype=torch.float64)
    plain = WhiteNoise(0, range(6))
    expected = torch.stack([plain.randn(x) for _ in range(4)])
    draws = []
    for order in ([5, 1, 2], [2, 1]):
        whole = WhiteNoise(0, range(6))
        first = whole.randn(x)
        some = whole.select(torch.tensor(order))
        fewer = [some.randn(x[:1].expand(len(order), 4)), some.select(torch.tensor([1])).randn(x[:1])]
        assert torch.equal(first, expected[0])
        assert torch.equal(fewer[0], expected[1, order]) and torch.equal(fewer[1], expected[2, order[1:2]])
        draws.append(whole.randn(x))
    # However many were taken and drew, the whole's next numbers are the same, and new.
    assert torch.equal(draws[0], draws[1]) and not torch.isin(draws[0], expected).any()


def test_steps_of_its_own_length_over_several_intervals(oracle2: GaussianMixture) -> None:
    """A sample that took more steps than its neighbours in one interval has noise of its own in the next."""
    sde, times = VPSDE(), torch.tensor([1.0, 0.6, 0.3, 0.01], dtype=torch.float64)
    net = oracle2.denoiser(sde)
    together = sample(sde, net, shape=(9, 2), solver=AdaptiveSDE(), times=times)
    for i in (0, 4, 8):
        alone = sample(sde, net, shape=(1, 2), solver=AdaptiveSDE(), times=times, index_offset=i)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)
