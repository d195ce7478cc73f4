"""What a diffusers scheduler's configuration says of a trained net: its process, and what it is given and predicts.

Only the configuration is read, as it stands in scheduler_config.json: diffusers itself is not needed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdescore.common.checks import choose, require
from sdescore.denoisers import Clip, NetTerms
from sdescore.processes import VESDE, DiscreteSDE, FlowSDE, KarrasSDE, LinearSDE

__all__ = ["Schedule", "read_schedule"]

# The last product of 1 - beta where a table ends without signal, whose lam would be infinite.
LAST_SIGNAL = 2.0**-24

PREDICTION_TYPES = {"epsilon": "noise", "sample": "data", "v_prediction": "v", "flow_prediction": "velocity"}


@dataclass(frozen=True)
class Schedule:
    """How a net was trained.

    Args:
        process: In whose states the pipelines of diffusers hold their samples.
        terms: What the net is given and predicts.
        count: The length of the table, num_train_timesteps.
        data_std: The standard deviation of the data, for terms that know of one.
        clip: The limit on the net's data predictions; None for none.
        keeps_noise: The scheduler clips the data alone and goes on with the net's own noise, as DDIM's does.
    """

    process: LinearSDE
    terms: NetTerms
    count: int = 1000
    data_std: float = 0.5
    clip: Clip | None = None
    keeps_noise: bool = False

    def net_time(self, t: Tensor) -> Tensor:
        """What the net is given at times t of the process, of their shape."""
        return torch.as_tensor(self.terms.inputs(self.process, t, self.data_std)[1])


def _cosine(share: Tensor) -> Tensor:
    return ((share + 0.008) / 1.008 * math.pi / 2).cos() ** 2


def _squaredcos(start: float, end: float, count: int) -> Tensor:
    """Nichol & Dhariwal 2021, eq. 17, with betas up to 0.999."""
    product = _cosine(torch.arange(count + 1, dtype=torch.float64) / count)
    return (1 - product[1:] / product[:-1]).clamp(max=0.999)


BETAS: dict[str, Callable[[float, float, int], Tensor]] = {
    "linear": lambda start, end, count: torch.linspace(start, end, count, dtype=torch.float32),
    "scaled_linear": lambda start, end, count: torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2,
    "squaredcos_cap_v2": _squaredcos,
    "sigmoid": lambda start, end, count: torch.linspace(-6, 6, count).sigmoid() * (end - start) + start,
}


def _products(config: Mapping[str, Any]) -> Tensor:
    """The table of alpha^2, float64 but rounded as in diffusers' float32, with which its nets are trained."""
    trained = config.get("trained_betas")
    if trained is None:
        make = choose(BETAS, str(config.get("beta_schedule", "linear")), "beta_schedule")
        count = int(config.get("num_train_timesteps", 1000))
        betas = make(float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02)), count)
    else:
        betas = torch.as_tensor(trained)
    products = (1 - betas.float()).cumprod(0)
    shift = float(config.get("snr_shift_scale", 1.0))  # of CogVideoX: the signal-to-noise ratio over this
    products = products / (shift + (1 - shift) * products) if shift != 1 else products
    if config.get("rescale_betas_zero_snr"):  # Lin et al. 2024, algorithm 1
        root = products.sqrt()
        products = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    return products.double()


# Their use_clipped_model_output is False by default; DDPM's and others' go on from the clipped data alone.
KEEP_NOISE = ("DDIMScheduler", "DDIMParallelScheduler", "DDIMInverseScheduler")


def _clip(config: Mapping[str, Any]) -> Clip | None:
    if config.get("thresholding"):
        ratio = float(config.get("dynamic_thresholding_ratio", 0.995))
        return Clip(float(config.get("sample_max_value", 1.0)), ratio)
    return Clip(float(config.get("clip_sample_range", 1.0))) if config.get("clip_sample") else None


def _table(config: Mapping[str, Any]) -> Schedule:
    products = _products(config)
    predicts = choose(PREDICTION_TYPES, str(config.get("prediction_type", "epsilon")), "prediction_type")
    if products[-1] == 0:
        require(
            predicts != "noise",
            "prediction_type='epsilon' with a table that ends without signal, where the noise says nothing of the "
            "data; expected 'v_prediction' or 'sample'",
        )
        before = float(products[-2])
        products[-1] = LAST_SIGNAL if before > LAST_SIGNAL else before / 2
    process = DiscreteSDE(tuple((products.log() - torch.log1p(-products)).div(2).tolist()))
    learned = config.get("variance_type") in ("learned", "learned_range")
    terms = NetTerms("state", "index", predicts=predicts, learned_variance=learned)
    clip = _clip(config)
    keeps_noise = clip is not None and config.get("_class_name") in KEEP_NOISE
    return Schedule(process, terms, len(products), clip=clip, keeps_noise=keeps_noise)


def _flow(config: Mapping[str, Any]) -> Schedule:
    require(not config.get("invert_sigmas"), "invert_sigmas=True; expected sigmas that fall from noise to data")
    predicts = choose(PREDICTION_TYPES, str(config.get("prediction_type", "flow_prediction")), "prediction_type")
    require(predicts == "velocity", f"prediction_type={config.get('prediction_type')!r}; expected 'flow_prediction'")
    count = int(config.get("num_train_timesteps", 1000))
    return Schedule(FlowSDE(), NetTerms("state", "t", float(count), predicts=predicts), count)


def _edm(config: Mapping[str, Any]) -> Schedule:
    require(
        "solver_order" not in config or "algorithm_type" in config or "beta_schedule" in config,
        "CosineDPMSolverMultistepScheduler's configuration, whose nets are given atan(sigma); expected ln(sigma)",
    )
    process = KarrasSDE(float(config.get("sigma_min", 0.002)), float(config.get("sigma_max", 80.0)))
    kind = str(config.get("prediction_type", "epsilon"))
    require(kind in ("epsilon", "v_prediction"), f"prediction_type={kind!r}; expected 'epsilon' or 'v_prediction'")
    count = int(config.get("num_train_timesteps", 1000))
    std = float(config.get("sigma_data", 0.5))
    terms = NetTerms("unit", "c_noise", predicts="edm", output_scale=-1.0 if kind == "v_prediction" else 1.0)
    return Schedule(process, terms, count, std)


def _exploding(config: Mapping[str, Any]) -> Schedule:
    process = VESDE(float(config.get("sigma_min", 0.01)), float(config.get("sigma_max", 1348.0)))
    return Schedule(process, NetTerms("state", "sigma", predicts="score"), int(config.get("num_train_timesteps", 2000)))


NAMED: dict[str, Callable[[Mapping[str, Any]], Schedule]] = {
    "EDMEulerScheduler": _edm,
    "EDMDPMSolverMultistepScheduler": _edm,
    "FlowMatchEulerDiscreteScheduler": _flow,
    "FlowMatchHeunDiscreteScheduler": _flow,
    "FlowMatchLCMScheduler": _flow,
    "ScoreSdeVeScheduler": _exploding,
}
# Schedulers that were made in memory do not name their class: options that no others have.
UNNAMED = {"sigma_schedule": _edm, "shift": _flow, "sampling_eps": _exploding}


def read_schedule(config: Mapping[str, Any]) -> Schedule:
    """The schedule that a scheduler's configuration describes, such as pipe.scheduler.config or scheduler_config.json.

    Known are the DDPM and DDIM family with its tables of betas, EDMEulerScheduler and EDMDPMSolverMultistepScheduler,
    schedulers of flow matching, and ScoreSdeVeScheduler. A table without signal at its end has 2^-24 for the last
    alpha^2, as diffusers' Euler, DPM-Solver++ and UniPC have it (its DDIM has 0), or half of the one before if smaller.

    Raises:
        ValueError: For another scheduler, an option that is unknown, and noise prediction on a table without signal.
    """
    name = config.get("_class_name")
    if name in NAMED:
        return NAMED[name](config)
    if name is None:
        for option, read in UNNAMED.items():
            if option in config:
                return read(config)
    if config.get("use_flow_sigmas"):
        return _flow(config)
    if config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction":
        return _edm({"sigma_data": 1.0, **config})  # EulerDiscreteScheduler, as Stable Video Diffusion has it
    require(
        "beta_schedule" in config or config.get("trained_betas") is not None,
        f"_class_name={name!r} with neither beta_schedule nor trained_betas; expected a scheduler of the DDPM and DDIM "
        f"family, {', '.join(NAMED)}",
    )
    return _table(config)
