"""Which bits belong to a sample: not those of its batch, its neighbours, its process or a global state."""

import math

import pytest
import torch
from named_solvers import FIXED, NAMES
from small_nets import ConvNet

from sdescore import VPSDE, Denoiser, GaussianMixture, KarrasSDE, LinearSDE, sample, trajectory
from sdescore.common.random import generator
from sdescore.sampling.noise import WhiteNoise

BUILT_IN = {
    "euler",
    "heun",
    "rk4",
    "dpm++",
    "ddpm",
    "euler-maruyama",
    "reverse-diffusion",
    "predictor-corrector",
    "annealed-langevin",
}


def image_oracle() -> GaussianMixture:
    draw = torch.Generator().manual_seed(5)
    return GaussianMixture(torch.randn(3, 1, 4, 4, generator=draw), [0.2, 0.3, 0.4], [0.2, 0.3, 0.5])


def test_names() -> None:
    assert set(NAMES) >= BUILT_IN and set(FIXED) >= BUILT_IN


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", FIXED)
def test_batch_size_changes_no_bit(name: str, dtype: torch.dtype, oracle2: GaussianMixture) -> None:
    sde = VPSDE()
    for mixture, count in ((oracle2.to(dtype), 67), (image_oracle().to(dtype), 9)):
        net = mixture.denoiser(sde)
        shape = (count, *mixture.shape)
        whole = sample(sde, net, shape, solver=name, steps=5)
        assert whole.shape == shape and whole.dtype == dtype
        for size, rows in ((64, count), (7, min(count, 20)), (1, 3)):
            part = sample(sde, net, (rows, *mixture.shape), solver=name, steps=5, batch_size=size)
            assert torch.equal(part, whole[:rows]), size


@pytest.mark.parametrize("name", FIXED)
def test_processes_share_a_set(name: str) -> None:
    """Each process takes whole batches, the last one padded: the parts are the whole."""
    sde, net = KarrasSDE(), image_oracle().denoiser(KarrasSDE())
    whole = sample(sde, net, (10, 1, 4, 4), solver=name, steps=5, seed=3, batch_size=4)
    parts = [
        sample(sde, net, (count, 1, 4, 4), solver=name, steps=5, seed=3, batch_size=4, index_offset=first)
        for first, count in ((0, 4), (4, 4), (8, 2))
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)], ids=str)
@pytest.mark.parametrize("name", ["heun", "dpm++", "euler-maruyama"])
def test_batch_size_with_a_convolutional_net(name: str, dtype: torch.dtype, tolerance: float) -> None:
    sde, net = VPSDE(), ConvNet().to(dtype)
    whole = sample(sde, Denoiser(net, sde), (20, 1, 8, 8), solver=name, steps=10)
    for size in (1, 7):
        part = sample(sde, Denoiser(net, sde), (20, 1, 8, 8), solver=name, steps=10, batch_size=size)
        assert float((part - whole).abs().max() / whole.abs().max()) < tolerance


@pytest.mark.parametrize("name", ["heun", "euler-maruyama"])
def test_seeds_differ(name: str, oracle2: GaussianMixture) -> None:
    sde, net = VPSDE(), oracle2.denoiser(VPSDE())
    one, same, two = (sample(sde, net, (50, 2), solver=name, steps=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not bool((one == two).any())
    assert len(one.unique(dim=0)) == 50
    # The samples of one seed are not those of another, moved along.
    assert not any(torch.equal(one[i:], two[: 50 - i]) or torch.equal(two[i:], one[: 50 - i]) for i in range(49))


def test_numbers_continue(oracle2: GaussianMixture) -> None:
    sde, net = VPSDE(), oracle2.denoiser(VPSDE())
    longer, shorter = (sample(sde, net, (n, 2), solver="ddpm", steps=5, index_offset=2) for n in (9, 4))
    assert torch.equal(longer[:4], shorter)


def test_initial_state_is_the_prior(sde: LinearSDE) -> None:
    oracle = image_oracle()
    first = next(trajectory(sde, oracle.denoiser(sde), (2000, 1, 4, 4), steps=2))
    expected = float(sde.sigma(torch.tensor(sde.T, dtype=torch.float64)))
    assert float(first.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * first.numel()))


def test_global_state_is_left_alone(oracle2: GaussianMixture) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sample(VPSDE(), oracle2.denoiser(VPSDE()), (5, 2), solver="euler-maruyama", steps=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_generators_are_independent() -> None:
    """The first draws of 20,000 generators in a row are as 20,000 draws of one: mean, spread and neighbours."""
    x = torch.stack([torch.randn(2, generator=generator("sample", 0, i)) for i in range(20_000)]).double()
    error = 1 / math.sqrt(20_000)
    assert float(x.mean(0).abs().max()) < 4.5 * error
    assert float((x.var(0) - 1).abs().max()) < 4.5 * math.sqrt(2) * error
    assert float((x[1:] * x[:-1]).mean(0).abs().max()) < 4.5 * error
    assert abs(float((x[:, 0] * x[:, 1]).mean())) < 4.5 * error


def test_noise_does_not_depend_on_the_selection() -> None:
    whole, x = WhiteNoise(0, range(5)), torch.zeros(5, 3)
    t = torch.tensor(0.5)
    draws = [whole.randn(x), whole(x, t, t), whole.randn(x)]
    some = WhiteNoise(0, [4, 1])
    again = [some(x[:2], t, t), some.randn(x[:2]), some.randn(x[:2])]
    for a, b in zip(draws, again, strict=True):
        assert torch.equal(a[[4, 1]], b)
    full = WhiteNoise(0, range(5))
    full.randn(x)
    taken = full.select(torch.tensor([4, 1]))
    assert torch.equal(taken.randn(x[:2]), draws[1][[4, 1]])


@pytest.mark.parametrize("name", ["ddpm", "predictor-corrector"])
def test_a_start_handed_back_draws_none_of_its_numbers_again(name: str, oracle2: GaussianMixture) -> None:
    sde, seen = VPSDE(), []

    class Seen(WhiteNoise):
        def randn(self, x: torch.Tensor, std: float = 1.0) -> torch.Tensor:
            seen.append(super().randn(x).clone())
            return std * seen[-1]

    net = oracle2.denoiser(sde)
    start, *_, end = trajectory(sde, net, shape=(5, 2), solver=name, steps=4, seed=3)
    assert torch.equal(sample(sde, net, x=start, solver=name, steps=4, seed=3, noise_source=Seen), end)
    unit = start / sde.sigma(torch.tensor(sde.T, dtype=start.dtype))
    assert seen and all((z - unit).abs().min() > 1e-5 for z in seen)
