"""Peers by the test of their order: one that is wrong fails it, one that is right passes."""

from importlib.util import find_spec
from typing import Any

import pytest
from peer_pairs import Azula, Diffusers, KDiffusion, Pair, deviations, multistep

from sdescore import VPSDE, Solver, karras
from sdescore.solvers import DPMPP_3M, LAM, Adams, V
from sdescore.testing import check_ode_order

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # of NumPy 2, in its schedulers


# Where a peer is wrong: (ours, peer's, the order it claims, the order it has, earlier states it needs).
WRONG: dict[str, tuple[Solver, Solver, int, int, int]] = {
    "diffusers 3M: D2 lacks a factor 2": (DPMPP_3M, multistep(3), 3, 2, 2),
    "k-diffusion 3M: D2 lacks a factor 2": (DPMPP_3M, KDiffusion("dpmpp_3m_sde", {"eta": 0.0}), 3, 2, 2),
    "azula REAB 2: alpha_s^2 + sigma_t^2 where sigma_s^2 belongs": (
        Adams(2, V, LAM),
        Azula("REAB", {"order": 2}),
        2,
        1,
        1,
    ),
}


def skip_without(peer: Solver) -> None:
    package = {Diffusers: "diffusers", KDiffusion: "k_diffusion", Azula: "azula"}[type(peer)]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize("name", WRONG)
def test_a_peer_that_is_wrong_fails_the_test_of_its_order(name: str) -> None:
    ours, peer, claimed, true, history = WRONG[name]
    skip_without(peer)
    options: dict[str, Any] = {"history": history, "steps": (32, 64), "starts": 32}
    with pytest.raises(AssertionError, match=rf"of order {claimed}, but measures ({true - 1}\.9|{true}\.[0-3])"):
        check_ode_order(peer, claimed, **options)
    check_ode_order(peer, true, **options)
    check_ode_order(ours, claimed, **options)
    states, _ = deviations(Pair(ours, peer), VPSDE(), karras()(VPSDE(), 12))
    assert states.max() > 1e-3


@pytest.mark.parametrize(
    ("peer", "order", "history"),
    [(multistep(2), 2, 1), (KDiffusion("lms"), 4, 3), (Azula("xEAB", {"order": 3}), 3, 2)],
    ids=["diffusers 2M", "k-diffusion LMS", "azula xEAB 3"],
)
def test_a_peer_that_is_right_passes(peer: Solver, order: int, history: int) -> None:
    skip_without(peer)
    check_ode_order(peer, order, history, steps=(32, 64), starts=32)
