"""Post-hoc averages: of any length, combined after training from snapshots (Karras et al. 2024, section 3.2)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from sdescore.common.checks import all_finite
from sdescore.common.files import replace_file
from sdescore.common.fingerprint import digest
from sdescore.training.averages import Average, Averages, HalfLife, PowerFunction
from sdescore.training.sharding import whole

__all__ = ["Snapshot", "fit", "profile", "reconstruct", "snapshots", "write_snapshots"]

RULES: dict[str, type[Average]] = {"HalfLife": HalfLife, "PowerFunction": PowerFunction}


@dataclass(frozen=True)
class Snapshot:
    """A file with the state of an average after a step, in a run with `batch` images per step.

    weights is the digest of its tensors.
    """

    path: Path
    average: Average
    step: int
    batch: int
    buffers: tuple[str, ...]
    weights: str


def write_snapshots(folder: Path, averages: Averages, step: int, *, write: bool = True) -> None:
    """Write the state of each average after a step to a file of its own, whole or not at all.

    Every process must call it, since each may hold a part of the weights; those with `write` write. Raises OSError, and
    FloatingPointError, before anything is written, for weights that are not finite.
    """
    states = []
    for model in averages.models:
        state = whole(model.state_dict(), write)
        states.append({name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()})
        bad = _not_finite(states[-1])
        if write and bad:
            raise FloatingPointError(f"{bad} is not finite after step {step}, of which no snapshot was written")
    for rule, model, tensors in zip(averages.rules, averages.models, states, strict=True):
        if not write:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        said = {"average": type(rule).__name__, "args": asdict(cast(Any, rule)), "step": step, "batch": averages.batch}
        said["buffers"] = [name for name, _ in model.named_buffers()]
        said["weights"] = digest(tensors)
        text = json.dumps(said)
        # One entry: safetensors writes several in any order.
        content = save(tensors, {"snapshot": f"{hashlib.sha256(text.encode()).hexdigest()} {text}"})
        replace_file(folder / f"step-{step:06d}.{rule.name}.safetensors", content)


def _not_finite(state: dict[str, Tensor]) -> str | None:
    """The name of a tensor with a value that is not finite."""
    return next((name for name, tensor in state.items() if not all_finite(tensor)), None)


def snapshots(folder: str | Path) -> list[Snapshot]:
    """The snapshots in a folder. Raises ValueError for a file that is no snapshot, naming it, and if there are none."""
    found = []
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            checksum, text = metadata["snapshot"].split(" ", 1)
            if hashlib.sha256(text.encode()).hexdigest() != checksum:
                raise ValueError("its header is damaged")
            said = json.loads(text)
            rule = RULES[said["average"]](**said["args"])
            found.append(Snapshot(path, rule, said["step"], said["batch"], tuple(said["buffers"]), said["weights"]))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
            raise ValueError(f"{path} is not a snapshot: {error!r}") from error
    if not found:
        raise ValueError(f"there are no snapshots in {folder}; a run writes them if snapshot_every is set")
    if len({each.batch for each in found}) > 1:
        raise ValueError(f"{folder} has snapshots of runs with different batches")
    return found


def _sound(snapshot: Snapshot) -> dict[str, Tensor]:
    """The tensors of a snapshot. Raises ValueError, naming the file, if they are damaged or not finite."""
    path = snapshot.path
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    bad = _not_finite(state)
    if bad:
        raise ValueError(f"{path}: {bad} is not finite, and would make an average of nothing; remove the file")
    if digest(state) != snapshot.weights:
        raise ValueError(f"{path} is damaged: its weights do not match their checksum")
    return state


def profile(average: Average, steps: int, batch: int) -> np.ndarray:
    """The weight (steps,), float64, of each step in the average after `steps` steps; the sum is 1."""
    fresh, later = _decays(average, steps, batch)
    return fresh * np.exp(later[-1] - later)


def _decays(average: Average, steps: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """1 - decay of each step, and the logarithm of the product of the decays up to it; each (steps,)."""
    decay = average.decay(np.arange(1, steps + 1), batch)
    return 1 - decay, np.append(0.0, np.log(np.maximum(decay[1:], 1e-300))).cumsum()


def fit(stored: Sequence[tuple[Average, int]], wanted: tuple[Average, int], batch: int) -> tuple[np.ndarray, float]:
    """The combination of stored averages, each after its step, that is closest to the wanted one.

    Least squares between the profiles step by step, where the paper takes their continuous limit: warm-ups and
    half-lives become as exact as power functions. The coefficients' sum is held at 1, so that constant weights stay as
    they are.

    Returns the coefficients (stored,), float64, and the distance of the profiles over the norm of the wanted one.
    """
    longest = {average: max(step for each, step in stored if each == average) for average, _ in stored}
    known = {average: _decays(average, steps, batch) for average, steps in longest.items()}
    target = profile(*wanted, batch)
    size = 4096
    triangle: np.ndarray = np.zeros((0, len(stored) + 1))  # of a QR decomposition, updated by chunks of rows
    for low in range(0, len(target), size):
        rows = np.zeros((min(size, len(target) - low), len(stored) + 1))
        for column, (average, step) in enumerate(stored):
            fresh, later = (each[low : min(low + len(rows), step)] for each in known[average])
            rows[: len(fresh), column] = fresh * np.exp(known[average][1][step - 1] - later)
        rows[:, -1] = target[low : low + len(rows)]
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, rows]), mode="r"))
    norms = np.linalg.norm(triangle[:, :-1], axis=0)
    matrix = triangle[:, :-1] / norms
    right = triangle[:, -1]
    basis = np.linalg.qr((1 / norms)[:, None], mode="complete").Q[:, 1:]  # directions that leave the sum unchanged
    start = (1 / norms) / np.sum(norms**-2)
    # Profiles closer than the rounding of stored weights count as equal.
    free = np.linalg.lstsq(matrix @ basis, right - matrix @ start, rcond=1e-6)[0]
    found = start + basis @ free
    return found / norms, float(np.linalg.norm(matrix @ found - right) / np.linalg.norm(right))


def reconstruct(
    stored: Sequence[Snapshot], average: Average, step: int | None = None
) -> tuple[dict[str, Tensor], float]:
    """The state that an average would have after a step (by default the last stored one), and its profile's error.

    The state is that of a Denoiser. A snapshot of this average and step is returned as it is, bit for bit. Buffers are
    those of the last snapshot up to the step. Raises ValueError for a step without snapshots up to it, and, naming the
    file, for a snapshot that is damaged or not finite.
    """
    last = max(each.step for each in stored)
    step = last if step is None else step
    usable = [each for each in stored if each.step <= step]
    if not usable or step > last:
        steps = sorted({each.step for each in stored})
        raise ValueError(f"step={step}; expected a step from {steps[0]} to {last}")
    same = [each for each in usable if each.step == step and each.average == average]
    if same:
        return _sound(same[0]), 0.0
    coefficients, error = fit([(each.average, each.step) for each in usable], (average, step), usable[0].batch)
    newest = max(usable, key=lambda each: each.step)
    state = _sound(newest)
    total = {name: torch.zeros_like(state[name], dtype=torch.float64) for name in state if name not in newest.buffers}
    for coefficient, each in zip(coefficients.tolist(), usable, strict=True):
        found = state if each is newest else _sound(each)
        if found.keys() != state.keys():
            raise ValueError(f"{each.path} holds other weights than {newest.path}; expected snapshots of one run")
        for name, value in total.items():
            value.add_(found[name].double(), alpha=coefficient)
    return {name: total[name].to(value.dtype) if name in total else value for name, value in state.items()}, error
