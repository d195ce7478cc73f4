"""Random right arguments: the answer is that of a closed form, of plain code, or of the same call made another way."""

import math
from collections.abc import Callable
from random import Random
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import SEVEN
from fuzzing import fuzz, limited
from named_solvers import FIXED
from torch import Tensor

import sdescore
from sdescore import GaussianMixture, LinearSDE, Scaling, sampling
from sdescore.denoisers import convert
from sdescore.density import scale_temperature, slerp
from sdescore.evaluation import metrics
from sdescore.mcmc import langevin
from sdescore.objectives import (
    denoising_score_matching,
    explicit_score_matching,
    finite_difference_score_matching,
    implicit_score_matching,
    sliced_score_matching,
    variance_reduced_score_matching,
)
from sdescore.operators import Blur, Channels, Downsample, Fourier, Mask, Matrix
from sdescore.operators.singular import matrix_of

pytestmark = pytest.mark.fuzz

GRIDS: list[Any] = [sampling.karras(), sampling.uniform_lambda(), sampling.uniform_t(), sampling.uniform_angle()]


def normal(random: Random, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(random.randrange(2**31)), dtype=dtype)


def close(found: Any, expected: Any, tolerance: float) -> None:
    found, expected = (torch.as_tensor(each, dtype=torch.float64) for each in (found, expected))
    assert found.shape == expected.shape
    scale = 1 + float(expected.abs().max()) if expected.numel() else 1.0
    assert float((found - expected).abs().max()) <= tolerance * scale, (found, expected)


def gaussian(random: Random, d: int, components: int = 1) -> GaussianMixture:
    stds = 0.2 + torch.rand(components, d, generator=torch.Generator().manual_seed(random.randrange(2**31)))
    weights = [random.uniform(0.2, 1) for _ in range(components)]
    return GaussianMixture(normal(random, components, d), stds.double(), weights)


def time_of(random: Random, sde: LinearSDE) -> Tensor:
    """A time at which nothing is rounded away."""
    low, high = sde.lam(torch.tensor([sde.T, sde.t_min], dtype=torch.float64)).tolist()
    lam = random.uniform(max(low, -3.0), min(high, 3.0))
    return sde.time(torch.tensor(lam, dtype=torch.float64)).clamp(sde.t_min, sde.T)


def spread(law: GaussianMixture, sde: LinearSDE, t: float) -> tuple[Tensor, Tensor]:
    """Mean and deviation of x_t for a single Gaussian."""
    alpha, sigma = sde.alpha(torch.tensor(t).double()), sde.sigma(torch.tensor(t).double())
    return alpha * law.means[0], (alpha**2 * law.stds[0] ** 2 + sigma**2).sqrt()


def samples(random: Random) -> None:
    sde, solver = random.choice(SEVEN), random.choice(FIXED)
    law = gaussian(random, random.randint(1, 3), random.randint(1, 3))
    n, offset = random.randint(1, 4), random.choice([0, 1, 5, 2**33])
    start = {"nfe": random.randint(6, 9)} if random.random() < 0.5 else {"steps": random.randint(3, 6)}
    options: dict[str, Any] = {"solver": solver, "seed": random.randrange(5), **start}
    whole = sdescore.sample(sde, law.denoiser(sde), (n, *law.shape), index_offset=offset, **options)
    again = sdescore.sample(
        sde, law.denoiser(sde), (n, *law.shape), index_offset=offset, batch_size=random.randint(1, n), **options
    )
    one = sdescore.sample(sde, law.denoiser(sde), (1, *law.shape), index_offset=offset + n - 1, **options)
    close(again, whole, 1e-6)
    close(one[0], whole[-1], 1e-6)


def densities(random: Random) -> None:
    """The flow carries a Gaussian to a Gaussian by one scale and shift."""
    sde, law = random.choice(SEVEN), gaussian(random, random.randint(1, 2))
    x, net = law.sample(1, random.randrange(100)), law.denoiser(sde)
    (m0, s0), (m1, s1) = spread(law, sde, sde.t_min), spread(law, sde, sde.T)
    z = m1 + (x - m0) / s0 * s1
    options: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
    if random.random() < 0.5:
        found = sdescore.likelihood(sde, net, x, trace="exact", prior=law.at(sde, sde.T), **options)
        close(found.log_prob, torch.distributions.Normal(m0, s0).log_prob(x).sum(1), 0.01)
        close(found.latent, z, 0.01)
    else:
        close(sdescore.encode(sde, net, x, **options), z, 0.01)
        close(sdescore.decode(sde, net, z, **options), x, 0.01)


def bounds(random: Random) -> None:
    """An exact net's reverse SDE is the process backwards: the bound is tight at every point."""
    sde, law, seed = random.choice(SEVEN), gaussian(random, random.randint(1, 3)), random.randrange(100)
    x = law.sample(2, seed)
    options: dict[str, Any] = {"prior": law.at(sde, sde.T), "levels": 8, "seed": seed}
    found = sdescore.elbo(sde, law.denoiser(sde), x, **options)
    assert bool(((found.log_prob - law.log_prob(x)).abs() < 20 * found.stderr + 0.2).all()), found
    one = sdescore.elbo(sde, law.denoiser(sde), x[1:], index_offset=1, **options)
    close(one.log_prob, found.log_prob[1:], 1e-9)


def conversions(random: Random) -> None:
    sde, data_std = random.choice(SEVEN), random.uniform(0.1, 2)
    n, d = random.randint(1, 3), random.randint(1, 3)
    t = torch.stack([time_of(random, sde) for _ in range(n)])
    x0, eps = normal(random, n, d), normal(random, n, d)
    a, s, da, ds = (each(t)[:, None] for each in (sde.alpha, sde.sigma, sde.alpha_dot, sde.sigma_dot))
    rho, x = s / a, a * x0 + s * eps
    norm = (rho**2 + data_std**2).sqrt()
    kinds = {"noise": eps, "data": x0, "score": -eps / s, "v": a * eps - s * x0, "velocity": da * x0 + ds * eps}
    kinds["edm"] = (x0 - data_std**2 / norm**2 * x / a) / (rho * data_std / norm)
    given, wanted = random.choice(list(kinds)), random.choice(list(kinds))
    close(convert(kinds[given], x, t, sde, given, wanted, data_std), kinds[wanted], 1e-7)
    one = convert(kinds[given][:1], x[:1], t[0], sde, given, wanted, data_std)
    close(one, kinds[wanted][:1], 1e-7)
    single = convert(kinds[given].float(), x.float(), t.float(), sde, given, wanted, data_std)
    close(single, kinds[wanted], 1e-3)
    close(sde.perturb(x0, t, eps), x, 1e-12)


def mixtures(random: Random) -> None:
    sde, law = random.choice(SEVEN), gaussian(random, random.randint(1, 3), random.randint(1, 4))
    t = time_of(random, sde)
    x = normal(random, random.randint(1, 3), *law.shape).requires_grad_()
    a, s = float(sde.alpha(t)), float(sde.sigma(t))
    elements = torch.distributions.Normal(a * law.means, (a**2 * law.stds**2 + s**2).sqrt())
    parts = torch.distributions.Independent(elements, 1)
    plain = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(law.weights), parts)
    log_prob = plain.log_prob(x)
    (score,) = torch.autograd.grad(log_prob.sum(), x)
    x = x.detach()
    close(law.at(sde, float(t)).log_prob(x), log_prob.detach(), 1e-9)
    close(law.at(sde, t).score(x), score, 1e-7)
    net = law.denoiser(sde)
    close(net.score(x, t), score, 1e-6)
    close(net(x, t), (x + s**2 * score) / a, 1e-6)
    close(net(x.float(), t.float()), (x + s**2 * score) / a, 2e-3)


def latents(random: Random) -> None:
    a, b = normal(random, 2, 3), normal(random, 2, 3)
    w = random.choice([0.0, 1.0, random.uniform(-0.5, 1.5)])
    found = slerp(a, b, w)
    close(slerp(b, a, 1 - w), found, 1e-9)
    close(slerp(a, b, torch.tensor([w, w], dtype=torch.float64)), found, 1e-12)
    close(found.norm(dim=1), a.norm(dim=1) ** (1 - w) * b.norm(dim=1) ** w, 1e-9)
    if w in (0, 1):
        close(found, b if w else a, 1e-9)
    close(scale_temperature(a, w**2), abs(w) * a, 1e-12)


def losses(random: Random) -> None:
    n, d, p = random.randint(1, 3), random.randint(1, 3), random.randint(1, 3)
    matrix, offset, x, v = (normal(random, *shape) for shape in ((d, d), (d,), (n, d), (p, n, d)))

    def score(x: Tensor) -> Tensor:
        return x @ matrix.T + offset

    s = score(x)
    half, second = s.square().sum(1) / 2, torch.einsum("pni,ij,pnj->pn", v, matrix, v)
    sliced = (second + (v * s).sum(2).square() / 2).mean(0)
    close(implicit_score_matching(score, x), matrix.trace() + half, 1e-9)
    close(sliced_score_matching(score, x, v=v), sliced, 1e-9)
    close(variance_reduced_score_matching(score, x, v=v), second.mean(0) + half, 1e-9)
    close(finite_difference_score_matching(score, x, v=v, step=random.uniform(0.01, 1)), sliced, 1e-7)
    close(explicit_score_matching(score, x, v[0]), (s - v[0]).square().sum(1) / 2, 1e-9)
    sde = random.choice(SEVEN)
    net, u, eps = gaussian(random, d, 2).denoiser(sde), torch.rand(n).double(), normal(random, n, d)
    t = (sde.t_min + (sde.T - sde.t_min) * u).clamp(sde.t_min, sde.T)
    found = denoising_score_matching(net, x, u=u, eps=eps)
    noise = net.noise(sde.alpha(t)[:, None] * x + sde.sigma(t)[:, None] * eps, t)
    close(found, (noise - eps).square().sum(1) / 2, 1e-9)


def distances(random: Random) -> None:
    d, n, m = random.randint(1, 3), random.randint(5, 9), random.randint(5, 9)
    dtype = random.choice([torch.float32, torch.float64])
    one, two = normal(random, n, d, dtype=dtype), random.choice([0.1, 1, 3]) * normal(random, m, d, dtype=dtype) + 1
    x, y = one.double().numpy(), two.double().numpy()
    table = np.linalg.norm(x[:, None] - y, axis=2)
    values, numbers = metrics.nearest(one, two, 2)
    close(values, np.sort(table, 1)[:, :2], 1e-6)
    assert np.allclose(np.take_along_axis(table, numbers.numpy(), 1), values.numpy(), atol=1e-6)
    c1, c2 = np.cov(x.T).reshape(d, d), np.cov(y.T).reshape(d, d)
    shared = np.sqrt(np.clip(np.linalg.eigvals(c1 @ c2).real, 0, None)).sum()
    frechet = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * shared
    close(metrics.frechet_distance(one, two), max(frechet, 0), 1e-6)
    xx, yy, xy = ((u @ w.T / d + 1) ** 3 for u, w in ((x, x), (y, y), (x, y)))
    unbiased = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
    close(metrics.kernel_distance(one, two, 2)[0], sum(unbiased) - 2 * xy.mean(), 1e-8)
    u, w = np.sort(np.repeat(x[:, 0], m)), np.sort(np.repeat(y[:, 0], n))
    line = metrics.sliced_wasserstein(one[:, :1], two[:, :1], 2)[0]
    close(line, math.sqrt(((u - w) ** 2).mean()), 1e-8)
    k = random.randint(1, 3)
    radii = [np.sort(np.linalg.norm(z[:, None] - z, axis=2), 1)[:, k] for z in (x, y)]
    expected = (table <= radii[0][:, None] + 1e-9).any(0).mean(), (table <= radii[1] + 1e-9).any(1).mean()
    close(metrics.precision_recall(one, two, k), expected, 1e-9)


def scalings(random: Random) -> None:
    low, levels, columns = random.uniform(-300, 300), random.choice([2, 5, 256]), random.randint(1, 3)
    lows = torch.tensor([low + c for c in range(columns)], dtype=torch.float64)
    highs = lows + torch.tensor([random.uniform(0.5, 1000) for _ in range(columns)], dtype=torch.float64)
    scaling = Scaling(tuple(lows.tolist()), tuple(highs.tolist()), levels)
    unit = torch.randint(0, levels, (4, columns), generator=torch.Generator().manual_seed(random.randrange(99)))
    raw = torch.minimum(lows + (highs - lows) * unit / (levels - 1), highs)
    x = scaling.to_model(raw, torch.float64)
    close(x, 2 * unit.double() / (levels - 1) - 1, 1e-6)
    close(scaling.to_data(x), raw, 1e-6)
    whole = torch.randint(0, 256, (4, 2), generator=torch.Generator().manual_seed(random.randrange(99)))
    dtype = random.choice([torch.uint8, torch.int16, torch.int32, torch.int64, torch.float32, torch.float64])
    close(Scaling().to_data(Scaling().to_model(whole.to(dtype))), whole, 1e-7)


def grids(random: Random) -> None:
    sde, grid, steps = random.choice(SEVEN), random.choice(GRIDS), random.randint(1, 40)
    times = grid(sde, steps)
    assert times.dtype == torch.float64 and times.shape == (steps,) and float(times[0]) == sde.start
    assert bool((times.diff() < 0).all()) and float(times[-1]) >= sde.t_min


def measurements(random: Random) -> None:
    height, width = random.choice([2, 4, 6]), random.choice([2, 4])
    seed = random.randrange(1000)
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.5
    kernel = torch.rand(random.randint(1, 2), random.randint(1, 2), generator=torch.Generator().manual_seed(seed)) + 0.1
    operators = [
        Mask(mask),
        Downsample(2),
        Blur(kernel.double()),
        Channels(),
        Channels() @ Downsample(2),
        Fourier(mask),
    ]
    chosen = random.choice([*operators, Matrix(normal(random, random.randint(1, 4), height))])
    shape: tuple[int, ...] = (height,) if isinstance(chosen, Matrix) else (3, height, width)
    x = normal(random, 2, *shape)
    y = chosen.A(x)
    other = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype)
    close((y * other).flatten(1).sum(1), (x * chosen.A_adjoint(other)).flatten(1).sum(1), 1e-9)
    close(chosen.A(x + 2 * x.flip(0)), y + 2 * chosen.A(x.flip(0)), 1e-9)
    if not isinstance(chosen, Fourier | Blur):  # of which some are nearly singular
        close(chosen.A(chosen.A_dagger(y)), y, 1e-6)
        pinv = torch.linalg.pinv(matrix_of(chosen, shape), rtol=1e-9)
        close(chosen.A_dagger(other).flatten(1), other.flatten(1) @ pinv.T, 1e-6)


def chains(random: Random) -> None:
    """Under one noise the difference of two chains of an autoregression decays by its coefficient."""
    std, step, steps = random.uniform(0.5, 2), random.uniform(0.001, 0.2), random.randint(1, 6)
    x, d = normal(random, 3, 2), normal(random, 3, 2)
    options: dict[str, Any] = {"step": step, "steps": steps, "seed": random.randrange(9)}
    first, second = (langevin(lambda x: -x / std**2, each, **options) for each in (x, x + d))
    close(second.x - first.x, (1 - step / std**2) ** steps * d, 1e-9)
    close(langevin(lambda x: -x / std**2, x[:1], **options).x, first.x[:1], 1e-12)


SLOW = [samples, densities, bounds]
CHECKS = [*SLOW, conversions, mixtures, latents, losses, distances, scalings, grids, measurements, chains]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_answers(check: Callable[[Random], None]) -> None:
    def limited_check(random: Random) -> None:
        with limited():
            check(random)

    cases = st.randoms(use_true_random=False)
    fuzz(limited_check, cases, 0.3 / len(CHECKS), f"answer: {check.__name__}", 10 if check in SLOW else 100)
