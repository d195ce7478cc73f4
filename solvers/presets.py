"""Published multistep methods, each one setting of Adams.

To add one: a line here, its name in __init__.py, and a line in pyproject.toml.
"""

import torch
from torch import Tensor

from sdescore.sampling import approaching

from .adams import BH1, BH2, CUBE_ROOT_RHO, INDEX, LAM, RHO, TIME, Adams, Tau
from .targets import DATA, NOISE

__all__ = [
    "ADAMS",
    "DDIM",
    "DDPM",
    "DEIS",
    "DPMPP_2M",
    "DPMPP_3M",
    "ER_SDE",
    "IPNDM",
    "LMS",
    "SA",
    "SDE_DPMPP_2M",
    "SDE_DPMPP_3M",
    "SEEDS",
    "UNIPC",
    "UNIPC_BH1",
    "UNIPC_BH2",
    "ddim_eta",
    "er_noise",
    "k_diffusion_eta",
]

# Ours: nearest to exact flows and to a trained net's, over all budgets of net calls (scripts/bench_solvers.py).
ADAMS = Adams(order=4, target=DATA, coordinate=CUBE_ROOT_RHO, corrector=True, end=3, grid=approaching())
# Song, Meng & Ermon 2021, eq. 12 at eta = 0: Euler's method in rho.
DDIM = Adams(order=1, target=NOISE)
# Ho et al. 2020, eq. 6-7, the posterior variance: ancestral sampling. It is the step of Crowson's Euler ancestral too.
DDPM = Adams(order=1, target=DATA, tau=1.0)
# Karras et al. 2022 as implemented by Crowson: linear multistep in sigma.
LMS = Adams(order=4, target=NOISE, coordinate=RHO)
# Zhang & Chen 2023, section 3: polynomials of order 3 in time.
DEIS = Adams(order=4, target=NOISE, coordinate=TIME)
# Zhang & Chen 2023, appendix H.2: the weights of equal steps, so of order 2 on a grid that is not uniform in rho.
IPNDM = Adams(order=4, target=NOISE, coordinate=INDEX)
# Lu et al. 2022b, algorithm 2.
DPMPP_2M = Adams(order=2, target=DATA, coordinate=LAM, bh=BH2)
# Lu et al. 2022b, of third order in truth: their D2 lacks a factor 2.
DPMPP_3M = Adams(order=3, target=DATA, coordinate=LAM)
# Zhao et al. 2023, algorithms 1-2 of order 3, whose weights do not depend on B(h).
UNIPC = Adams(order=3, target=DATA, coordinate=LAM, corrector=True)
# The same algorithms of order 2 with either B(h), and so of the predictor of 2M at the second.
UNIPC_BH1 = Adams(order=2, target=DATA, coordinate=LAM, corrector=True, bh=BH1)
UNIPC_BH2 = Adams(order=2, target=DATA, coordinate=LAM, corrector=True, bh=BH2)
# Lu et al. 2022b, appendix, as implemented by Crowson at eta = 1.
SDE_DPMPP_2M = Adams(order=2, target=DATA, coordinate=LAM, tau=1.0, bh=BH2)
# The same with a third target, and the factor 2 that is missing there.
SDE_DPMPP_3M = Adams(order=3, target=DATA, coordinate=LAM, tau=1.0)
# Gonzalez et al. 2023, SEEDS-1: the reverse SDE with the noise prediction held.
SEEDS = Adams(order=1, target=NOISE, tau=1.0)
# Xue et al. 2023, algorithm 1 with constant tau: predictor and corrector on the SDE.
SA = Adams(order=3, target=DATA, coordinate=LAM, corrector=True, tau=1.0)


def er_noise(lam: Tensor, h: Tensor) -> Tensor:
    """tau of the noise scale phi(rho) = rho (e^(rho^0.3) + 10): tau^2 = d log(phi) / d log(rho) - 1.

    Cui et al. 2023, section 4.1 (ER-SDE 5): more noise at high levels, next to none at low ones.
    """
    power = torch.exp(-0.3 * lam)
    return (0.3 * power / (1 + 10 * torch.exp(-power))).sqrt()


# Cui et al. 2023, algorithm 3, of third order in truth: polynomials in rho of all three targets.
ER_SDE = Adams(order=3, target=DATA, coordinate=RHO, tau=er_noise)


def ddim_eta(eta: float) -> Tau:
    """tau for DDIM's eta, whose step keeps sqrt(1 - eta^2 (1 - e^-2h)) of the noise (Song et al. 2021a, eq. 16)."""
    return lambda lam, h: (-torch.log1p(-(eta**2) * -torch.expm1(-2 * h)) / (2 * h)).sqrt().expand_as(lam)


def k_diffusion_eta(eta: float) -> Tau:
    """tau for the eta of k-diffusion's multistep SDE samplers, whose step keeps e^(-eta h) of the noise."""
    return eta**0.5
