"""Published multistep methods, each one setting of Adams.

To add one: a preset below, its name in __init__.py, and a line in pyproject.toml.
"""

from sdescore.sampling import About, approaching

from .adams import Adams
from .coordinates import CUBE_ROOT_RHO, INDEX, LAM, RHO, TIME
from .targets import DATA, NOISE
from .tau import er_noise

__all__ = [
    "ADAMS",
    "DEIS",
    "DPMPP_2M",
    "DPMPP_3M",
    "ER_SDE",
    "IPNDM",
    "LMS",
    "SA",
    "SDE_DPMPP_2M",
    "SDE_DPMPP_3M",
    "UNIPC",
    "UNIPC_BH1",
    "UNIPC_BH2",
]

DEIS_PAPER = "https://arxiv.org/abs/2204.13902"
DPMPP_PAPER = "https://arxiv.org/abs/2211.01095"
UNIPC_PAPER = "https://arxiv.org/abs/2302.04867"

ADAMS = Adams(
    order=3,
    target=DATA,
    coordinate=CUBE_ROOT_RHO,
    corrector=True,
    end=3,
    reach=1.5,
    grid=approaching(),
    about=About(
        "ODE",
        4,
        "ours: exponential Adams in rho^(1/3) whose last data predictions are extrapolated to t_min",
        "https://arxiv.org/abs/2302.04867",
        "the default: nearest to the exact flow from 5 calls on (scripts/bench)",
    ),
)
LMS = Adams(
    order=4,
    target=NOISE,
    coordinate=RHO,
    about=About(
        "ODE",
        4,
        "Karras et al. 2022, as implemented by Crowson",
        "https://arxiv.org/abs/2206.00364",
        "linear multistep in sigma",
        ("lmsdiscrete",),
    ),
)
DEIS = Adams(
    order=4,
    target=NOISE,
    coordinate=TIME,
    about=About(
        "ODE", 4, "Zhang & Chen 2023, section 3", DEIS_PAPER, "polynomials of order 3 in time", ("deismultistep",)
    ),
)
IPNDM = Adams(
    order=4,
    target=NOISE,
    coordinate=INDEX,
    about=About(
        "ODE",
        2,
        "Zhang & Chen 2023, appendix H.2",
        DEIS_PAPER,
        "the weights of equal steps: order 4 on grids uniform in rho, 2 on others",
    ),
)
DPMPP_2M = Adams(
    order=2,
    target=DATA,
    coordinate=LAM,
    bh="bh2",
    about=About(
        "ODE",
        2,
        "Lu et al. 2022b, algorithm 2",
        DPMPP_PAPER,
        "DPM-Solver++ (2M): a safe choice at 10 to 20 calls, guided nets included",
        ("dpmpp-2m", "dpmsolvermultistep"),
    ),
)
DPMPP_3M = Adams(
    order=3,
    target=DATA,
    coordinate=LAM,
    grid=approaching(),
    about=About(
        "ODE",
        3,
        "Lu et al. 2022b, with the factor 2 that their D2 lacks",
        DPMPP_PAPER,
        "DPM-Solver++ (3M), of third order in truth",
        ("dpmpp-3m",),
    ),
)
UNIPC = Adams(
    order=3,
    target=DATA,
    coordinate=LAM,
    corrector=True,
    grid=approaching(),
    about=About(
        "ODE",
        4,
        "Zhao et al. 2023, algorithms 1-2 of order 3",
        UNIPC_PAPER,
        "predictor and corrector at no further call; its weights do not depend on B(h)",
    ),
)
UNIPC_BH1 = Adams(
    order=2,
    target=DATA,
    coordinate=LAM,
    corrector=True,
    bh="bh1",
    grid=approaching(),
    about=About("ODE", 3, "Zhao et al. 2023, order 2 with B(h) = h", UNIPC_PAPER, "UniPC for pixels without guidance"),
)
UNIPC_BH2 = Adams(
    order=2,
    target=DATA,
    coordinate=LAM,
    corrector=True,
    bh="bh2",
    about=About(
        "ODE",
        3,
        "Zhao et al. 2023, order 2 with B(h) = e^h - 1",
        UNIPC_PAPER,
        "UniPC as diffusers has it: few calls on nets that predict the noise",
        ("uni-pc", "uni-pc-bh2", "unipcmultistep"),
    ),
)
SDE_DPMPP_2M = Adams(
    order=2,
    target=DATA,
    coordinate=LAM,
    tau=1.0,
    bh="bh2",
    about=About(
        "SDE",
        2,
        "Lu et al. 2022b, appendix, as implemented by Crowson at eta = 1",
        DPMPP_PAPER,
        "diverse samples from 20 to 50 calls",
        ("dpmpp-2m-sde",),
    ),
)
SDE_DPMPP_3M = Adams(
    order=3,
    target=DATA,
    coordinate=LAM,
    tau=1.0,
    about=About(
        "SDE",
        2,
        "Lu et al. 2022b, with a third target",
        DPMPP_PAPER,
        "diverse samples, smoother nets",
        ("dpmpp-3m-sde",),
        least=12,
    ),
)
SA = Adams(
    order=3,
    target=DATA,
    coordinate=LAM,
    corrector=True,
    tau=1.0,
    about=About(
        "SDE",
        2,
        "Xue et al. 2023, algorithm 1 with constant tau",
        "https://arxiv.org/abs/2309.05019",
        "predictor and corrector on the SDE",
        ("sasolver", "sa-solver"),
        least=12,
    ),
)
ER_SDE = Adams(
    order=3,
    target=DATA,
    coordinate=RHO,
    tau=er_noise(),
    about=About(
        "SDE",
        2,
        "Cui et al. 2023, algorithm 3, of third order in the drift",
        "https://arxiv.org/abs/2309.06169",
        "less noise at low levels: diverse samples from few calls",
        ("er-sde-solver",),
    ),
)
