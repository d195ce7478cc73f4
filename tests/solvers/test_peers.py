"""The page that says what other libraries' samplers are called here: complete, true, and run."""

import re
import sys
from dataclasses import replace
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from peer_pairs import Diffusers, Pair, check, deviations, mixture
from torch import Tensor

import sdescore
from sdescore import VPSDE, Brownian, KarrasSDE, ReverseProcess, Solver, find_solver, karras, trajectory
from sdescore import solvers as ours
from sdescore.sampling import uniform_lambda
from sdescore.sampling.noise import WhiteNoise
from sdescore.solvers import CONSISTENCY, DDIM, DDPM, SDE_DPMPP_2M, BatchMeanLangevin, EulerMaruyama

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "solvers" / "PEERS.md"
if not PAGE.exists():
    pytest.skip("no page beside these tests", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # of NumPy 2, in its schedulers

# The package of each heading, its files, and how they define a sampler.
PEERS = {
    "diffusers": ("diffusers", "schedulers/**/scheduling_*.py", r"^class (\w+Scheduler)\("),
    "k-diffusion": ("k_diffusion", "sampling.py", r"^def (sample_\w+|log_likelihood)\("),
    "azula": ("azula", "sample.py", r"^class (\w+Sampler)\((?!abc)"),
}
Row = tuple[list[str], list[str], str]  # the peer's names, what is here, how near


def rows(heading: str) -> list[Row]:
    """Of the table under a heading."""
    text = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")][2:]
    return [(re.findall("`([^`]*)`", a), re.findall("`([^`]*)`", b), c.strip()) for a, b, c in lines]


def names(heading: str) -> list[str]:
    return [name for peer, _, _ in rows(heading) for name in peer if name.isidentifier()]


def peer_names(heading: str) -> set[str]:
    """What the installed library has, whether or not it can be imported."""
    package, places, pattern = PEERS[heading]
    found = find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    text = "\n".join(path.read_text() for path in Path(found.origin).parent.glob(places))
    return set(re.findall(pattern, text, re.MULTILINE))


@pytest.mark.parametrize("heading", PEERS)
def test_every_sampler_of_the_peer_is_on_the_page(heading: str) -> None:
    there, here = peer_names(heading), names(heading)
    pinned = f"{heading}=={version(heading)}"
    if not re.search(rf"^{re.escape(pinned)}\b", (ROOT / "constraints.txt").read_text(), re.MULTILINE):
        pytest.skip(f"the page is about the pinned version, not {pinned}")
    assert len(here) == len(set(here))
    assert set(here) == there


@pytest.mark.parametrize("heading", PEERS)
def test_everything_named_here_is_here(heading: str) -> None:
    known = {entry.name for entry in entry_points(group="sdescore.solvers")}
    for peers, here, near in rows(heading):
        assert near[:1] in {"=", "≈"} or not here, peers
        for name in here:
            if name.startswith("sdescore."):
                assert hasattr(sdescore, name.removeprefix("sdescore."))
            elif name.startswith('"'):
                assert name.strip('"') in known
            elif name != "sde-dpmsolver++":  # the peer's
                assert isinstance(eval(name, {**vars(ours), "replace": replace}), Solver)


@pytest.mark.parametrize("heading", PEERS)
def test_what_is_said_to_be_equal_is_compared(heading: str) -> None:
    tests = [
        ROOT / "tests" / name for name in ("peer_pairs.py", "solvers/test_k_diffusion.py", "solvers/test_peers.py")
    ]
    text = "\n".join(path.read_text() for path in [*tests, *ROOT.glob("tests/solvers/test_parity_*.py")])
    called = r"(Diffusers|WithPath|LookingBack|KDiffusion|Azula)"
    for peers, _, near in rows(heading):
        for name in peers if near.startswith("=") else []:
            short = name.removesuffix("Scheduler").removesuffix("Sampler").removeprefix("sample_")
            runs = rf'{called}\(\s*"{short}"', rf"\.{name}\("
            assert any(re.search(run, text) for run in runs), name


# What the other tests do not compare ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "peer"),
    [(DDIM, Diffusers("DDIMParallel")), (DDIM, Diffusers("CogVideoXDDIM")), (DDPM, Diffusers("DDPMParallel"))],
    ids=["DDIMParallel", "CogVideoXDDIM", "DDPMParallel"],
)
def test_the_same_under_another_name(solver: Solver, peer: Diffusers) -> None:
    pytest.importorskip("diffusers")
    check(Pair(solver, peer), VPSDE(), karras()(VPSDE(), 12))


def test_fresh_noise_at_every_step() -> None:
    """Ours goes down to t_min before it goes up again."""
    pytest.importorskip("diffusers")
    sde, times = KarrasSDE(1e-9, 50.0), uniform_lambda(rho_min=0.02)(KarrasSDE(0.02, 50.0), 12)
    states, data = deviations(Pair(CONSISTENCY, Diffusers("FlowMatchLCM")), sde, times)
    assert states.max() < 1e-7 and data < 1e-7
    assert find_solver("consistency") == CONSISTENCY


class LookingBack(Diffusers):
    """A scheduler that is handed its last prediction and time."""

    def make(self, rho: Tensor) -> Any:
        scheduler = super().make(rho)
        old: dict[str, Any] = {}
        step = scheduler.step

        def step_from(output: Tensor, t: Tensor, x: Tensor) -> Any:
            x, data = step(output, old.get("data"), t, old.get("t"), x)
            old.update(data=data, t=t)
            return SimpleNamespace(prev_sample=x)

        scheduler.step = step_from
        return scheduler


def test_two_draws_a_step() -> None:
    """On a path it does not matter that one of them is left unused."""
    pytest.importorskip("diffusers")
    sde, oracle = VPSDE(), mixture()
    times, x = karras()(sde, 12), oracle.at(sde, sde.T).sample(8)
    both = [
        list(trajectory(sde, oracle.denoiser(sde), x=x, times=times, solver=solver, noise_source=Brownian(sde)))
        for solver in (SDE_DPMPP_2M, LookingBack("CogVideoXDPM", last=False))
    ]
    assert max(float((a - b).abs().max()) for a, b in zip(*both, strict=True)) < 1e-9


def handed(module: ModuleType, z: Tensor) -> Any:
    return patch.object(module, "randn_tensor", lambda *_, **__: z)


def test_score_sde_corrector() -> None:
    scheduler = pytest.importorskip("diffusers").ScoreSdeVeScheduler(snr=0.17)
    sde, oracle, t = KarrasSDE(), mixture(), torch.tensor(1.3, dtype=torch.float64)
    x = oracle.at(sde, t).sample(8)
    scheduler.set_timesteps(10)
    with handed(sys.modules[type(scheduler).__module__], WhiteNoise(2, range(8)).randn(x)):
        theirs = scheduler.step_correct(oracle.denoiser(sde).score(x, t), x).prev_sample
    found = BatchMeanLangevin(snr=0.17).correct(
        ReverseProcess(sde, oracle.denoiser(sde)), x, t, WhiteNoise(2, range(8))
    )
    torch.testing.assert_close(found, theirs, rtol=1e-6, atol=1e-6)  # theirs makes a factor in float32


def test_score_sde_euler() -> None:
    """A step of 1 / 100; its times are 0.999 / 99 apart."""
    deprecated = pytest.importorskip("diffusers.schedulers.deprecated.scheduling_sde_vp")
    scheduler, sde, oracle = deprecated.ScoreSdeVpScheduler(), VPSDE(), mixture()
    scheduler.set_timesteps(100)
    t = torch.tensor(0.4, dtype=torch.float64)
    x, reverse = oracle.at(sde, t).sample(8), ReverseProcess(sde, oracle.denoiser(sde))
    with handed(sys.modules[type(scheduler).__module__], WhiteNoise(2, range(8)).randn(x)):
        theirs, _ = scheduler.step_pred(reverse.noise(x, t), x, t)
    found = EulerMaruyama().step(reverse, x, t, t - 0.01, WhiteNoise(2, range(8)))
    torch.testing.assert_close(found, theirs, rtol=1e-9, atol=1e-9)
