"""What the experiments share: the command line, a training loop, nets of the plane, pictures and tables."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # pictures go to files, on machines without a screen too
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm

from sdescore import GaussianMixture
from sdescore.cli.command_line import run
from sdescore.cli.outputs import make_folder, write_json
from sdescore.cli.tables import markdown
from sdescore.evaluation.figures import save_figure
from sdescore.nets import MLP

torch.set_num_threads(1)  # small tensors: threads cost more than they give

# The two far modes of Song & Ermon 2019, section 3.2; the small one holds a fifth of the mass.
FAR = GaussianMixture([[-5.0, -5.0], [5.0, 5.0]], 1.0, [0.2, 0.8])


def start(main: Callable[[], None]) -> None:
    """Run an experiment; what is wrong with its folder ends it with one line."""
    run(Path(sys.argv[0]).name, main)


def arguments(description: str | None, name: str) -> argparse.Namespace:
    """--out and --seed; seeds torch and makes the folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help=f"folder of {name}.png and .json")
    parser.add_argument("--seed", type=int, default=0, help="of data, initial weights and noise")
    given = parser.parse_args()
    make_folder(given.out)
    torch.manual_seed(given.seed)
    return given


class PlainScore(nn.Module):
    """MLP as a score net of x alone, or of (x, level)."""

    def __init__(self, features: int, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        self.net = MLP(features, width=width, depth=depth)

    def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
        out: Tensor = self.net(x, x.new_zeros(len(x)) if level is None else level)
        return out


def perceptron(inputs: int, outputs: int, width: int = 64) -> nn.Sequential:
    """A smooth net without normalisation, whose second and third derivatives stay tame."""
    middle = nn.Linear(width, width)
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), middle, nn.SiLU(), nn.Linear(width, outputs))


def fit(
    model: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float = 2e-3, name: str = "training"
) -> list[float]:
    """Minimise loss() by Adam with gradients clipped and a cosine schedule; the losses on the way."""
    adam = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    history = []
    for _ in tqdm(range(steps), desc=name, mininterval=1):
        value = loss()
        adam.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        adam.step()
        schedule.step()
        history.append(float(value.detach()))
    return history


def finish(figure: Figure, out: Path, name: str, numbers: Mapping[str, object]) -> None:
    """Write the picture and its numbers."""
    save_figure(out / f"{name}.png", figure, dpi=80, bbox_inches="tight")
    write_json(out / f"{name}.json", numbers)
    print(f"{out / name}.png")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows beneath their headings."""
    text = [[f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row] for row in rows]
    print(markdown([dict(zip(columns, row, strict=True)) for row in text]))


def plane(limit: float, count: int) -> Tensor:
    """The points (count^2, 2) of a square grid."""
    axis = torch.linspace(-limit, limit, count)
    return torch.cartesian_prod(axis, axis)
