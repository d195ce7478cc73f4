"""Our solvers in pipelines of diffusers, beside diffusers' own schedulers on the same times and noise."""

from collections.abc import Callable
from functools import partial, wraps
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from packages import install_example
from torch import Tensor

from sdescore import FlowSDE, Solver, sample
from sdescore.solvers import DIFFERENCE, RungeKutta, tableaux

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("greenlet")
pytest.importorskip("transformers")

import tiny_pipelines  # noqa: E402

from sdescore.interop import DiffusersScheduler  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:diffusers",  # of NumPy 2, in its schedulers
    "ignore::FutureWarning:diffusers",
)

Recorded = list[tuple[Tensor, Any, Tensor]]
STEPS = 4


class States:
    """A scheduler of diffusers with sigmas, for pipelines whose states are of preserved variance.

    DDPMPipeline and DiTPipeline begin with unit variance; the first does not scale what the net is given, the second
    goes on from what it scaled. With such a scheduler as it is both run, and make something else.
    """

    init_noise_sigma = 1.0

    def __init__(self, peer: Any) -> None:
        self.peer, self.config, self.order = peer, peer.config, peer.order

    def set_timesteps(self, *count: Any, **options: Any) -> None:
        self.peer.set_timesteps(*count, **options)
        self.timesteps = self.peer.timesteps

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, generator: Any = None, **_: Any) -> Any:
        peer = self.peer
        peer.scale_model_input(sample, timestep)
        before = (1 + peer.sigmas[peer.step_index] ** 2).sqrt()
        known = {"generator": generator} if "generator" in signature(peer.step).parameters else {}
        found = peer.step(model_output, timestep, before * sample, **known)
        found.prev_sample = found.prev_sample / (1 + peer.sigmas[peer.step_index] ** 2).sqrt()
        return found


def run(make: Callable[[Any], Any], scheduler: Any, **call: Any) -> tuple[Tensor, Recorded]:
    """The last state of a pipeline's run, and the arguments of every step."""
    pipe, recorded, last = make(scheduler), [], []
    pipe.scheduler = scheduler
    step, known = scheduler.step, signature(scheduler.step).parameters

    @wraps(step)
    def stepped(model_output: Tensor, timestep: Any, sample: Tensor, *rest: Any, **options: Any) -> Any:
        recorded.append((model_output, timestep, sample))
        options = {key: value for key, value in options.items() if key in known}  # DDPMPipeline hands on a generator
        found = step(model_output, timestep, sample, *rest, **options)
        last.append(found[0])
        return found

    scheduler.step = stepped
    torch.manual_seed(9)  # DiT and Stable Diffusion 3 hand no generator to the scheduler
    pipe(num_inference_steps=STEPS, generator=torch.Generator().manual_seed(7), **call)
    return last[-1], recorded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer")


PIPELINES = ("ddpm", "dit", "stable diffusion", "stable diffusion 3")


def generate(name: str, folder: Path, scheduler: Any) -> tuple[Tensor, Recorded]:
    """A run of a pipeline with a scheduler."""
    guided = {"guidance_scale": 3.0, "output_type": "latent"}
    if name == "ddpm":
        return run(tiny_pipelines.ddpm, scheduler, batch_size=2, output_type="np")
    if name == "dit":
        return run(tiny_pipelines.dit, scheduler, class_labels=[3, 7], guidance_scale=2.0, output_type="np")
    if name == "stable diffusion":
        make = partial(tiny_pipelines.stable_diffusion, folder=folder)
        return run(make, scheduler, prompt=["a fox", "seven hills"], **guided)
    texts = tiny_pipelines.embedded_texts()
    return run(tiny_pipelines.stable_diffusion_3, scheduler, **texts, height=16, width=16, **guided)


TABLE = {"clip_sample": False, "timestep_spacing": "leading", "steps_offset": 1, "beta_schedule": "scaled_linear"}
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


def own(name: str) -> Any:
    """The scheduler that comes with a pipeline."""
    if name == "stable diffusion 3":
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return diffusers.DDIMScheduler(**TABLE, **SD_BETAS)


# Ours, by the name of the peer and the options that it needs beside those of the pipeline's own.
ON_TABLES: dict[str, tuple[str | Solver, dict[str, Any]]] = {
    "DDIM": ("ddim", {}),
    "DPMSolverMultistep": ("dpm++", {}),
    "UniPCMultistep": ("unipc-bh2", {}),
    "HeunDiscrete": ("heun", {}),
    "EulerAncestralDiscrete": ("euler-ancestral", {}),
}
SDE1 = {"algorithm_type": "sde-dpmsolver++", "solver_order": 1, **FLOW}
ON_FLOWS: dict[str, tuple[str | Solver, dict[str, Any]]] = {
    "FlowMatchEulerDiscrete": ("ddim", {"shift": 3.0}),
    "DPMSolverMultistep": ("dpm++", FLOW),
    "UniPCMultistep": ("unipc-bh2", FLOW),
    # Its Heun is in sigma; ours by that name in sigma / (1 - sigma), which begins at infinity.
    "FlowMatchHeunDiscrete": (RungeKutta(tableaux.HEUN, DIFFERENCE), {"shift": 3.0}),
    # It has no ancestral Euler of a flow; on the data prediction SDE-DPM-Solver++ of order 1 is the same.
    "DPMSolverMultistep, order 1": ("euler-ancestral", SDE1),
}
PARITY = [
    *((name, peer, *pair) for name in PIPELINES[:3] for peer, pair in ON_TABLES.items()),
    *((PIPELINES[3], peer, *pair) for peer, pair in ON_FLOWS.items()),
]


SCALED = ("HeunDiscrete", "EulerAncestralDiscrete")


def peer_scheduler(pipeline: str, peer: str, options: dict[str, Any]) -> Any:
    made = getattr(diffusers, f"{peer.partition(',')[0]}Scheduler")
    return made(**options) if pipeline == PIPELINES[3] else made.from_config(own(pipeline).config, **options)


@pytest.mark.parametrize(
    ("name", "peer", "solver", "options"), PARITY, ids=[f"{name}, {peer}" for name, peer, *_ in PARITY]
)
def test_the_images_are_those_of_diffusers(
    folder: Path, name: str, peer: str, solver: str | Solver, options: dict[str, Any]
) -> None:
    theirs = peer_scheduler(name, peer, options)
    ours = DiffusersScheduler.from_config(theirs.config, solver=solver)
    scaled = name in PIPELINES[:2] and peer in SCALED
    expected, _ = generate(name, folder, States(theirs) if scaled else theirs)
    found, _ = generate(name, folder, ours)
    rows = slice(2 if name == "dit" else None)  # its second half is never used
    assert float((found - expected)[rows].abs().max() / expected[rows].abs().max()) < 1e-5


@pytest.mark.parametrize("name", PIPELINES[:2])
@pytest.mark.parametrize("peer", SCALED)
def test_pipelines_without_scaling_are_wrong_with_diffusers_own_schedulers(folder: Path, name: str, peer: str) -> None:
    """Why these stand in States above."""
    theirs = peer_scheduler(name, peer, {})
    ours = DiffusersScheduler.from_config(theirs.config, solver=ON_TABLES[peer][0])
    (wrong, _), (found, _) = generate(name, folder, theirs), generate(name, folder, ours)
    assert float((found - wrong)[:2].abs().max() / found[:2].abs().max()) > 0.1


class WholeFlow(FlowSDE):
    """Pipelines begin closer to the noise than sample() does."""

    @property
    def T(self) -> float:
        return 1.0


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("solver", ["adams", "ddpm", "sde-dpm++", "heun", "example"])
def test_every_solver_makes_of_the_net_s_outputs_what_sample_makes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path, name: str, solver: str
) -> None:
    """What a pipeline was told at each call, told again to sample(); "example" is a plug-in."""
    install_example(monkeypatch, tmp_path)
    scheduler = DiffusersScheduler.from_config(own(name).config, solver=solver, seed=3)
    found, recorded = generate(name, folder, scheduler)
    calls = iter(recorded)

    def net(x: Tensor, t: Tensor) -> Tensor:
        output, timestep, state = next(calls)
        torch.testing.assert_close(x[:2], state[:2], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(float(scheduler.schedule.net_time(t[0])), float(timestep), rtol=1e-4, atol=1e-3)
        return output

    sde = WholeFlow() if name == "stable diffusion 3" else scheduler.schedule.process
    kind, grid = scheduler.schedule.terms.predicts, scheduler._grid
    again = sample(sde, net, x=recorded[0][2], times=grid, solver=solver, seed=3, predicts=kind)
    torch.testing.assert_close(found, again)
    assert next(calls, None) is None
    assert len(recorded) == {"heun": 2 * STEPS - 1}.get(solver, STEPS)


@pytest.mark.parametrize("name", PIPELINES)
def test_solvers_that_size_their_steps_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="'bosh3' chooses its steps as the samples need them; expected a solver"):
        generate(name, folder, DiffusersScheduler.from_config(own(name).config, solver="bosh3"))
