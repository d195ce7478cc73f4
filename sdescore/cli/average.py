"""Make the model of any average of the weights from the snapshots that a run kept.

    sdescore train --out runs/mine --ema_widths '[0.05, 0.1]' --snapshot_every 1000 ...
    sdescore average --run runs/mine --width 0.07 --out runs/mine/width-0.07
    sdescore average --run runs/mine --halflife 500000 --out runs/mine/halflife-500k

The folder is a model as training writes it, for the other commands. How well the
snapshots can make the average is printed and has a limit; the more of them there are, the better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdescore.cli.command_line import run_with_settings
from sdescore.cli.models import training_of
from sdescore.cli.outputs import claim
from sdescore.common.checks import check_fields
from sdescore.common.files import is_empty
from sdescore.denoisers import Denoiser
from sdescore.training.averages import Average, HalfLife, PowerFunction
from sdescore.training.posthoc_averages import reconstruct, snapshots


@dataclass(frozen=True)
class AverageConfig:
    """Settings of an average.

    Args:
        run: Folder of the training run, with model/ and snapshots/.
        out: Folder to write the model to; must not exist yet.
        width: Length of the average as a share of the training, the relative standard deviation of its profile.
        halflife: Images after which it has half forgotten a step, instead of width.
        step: Step after which it is taken; by default the last that has a snapshot.
        limit: Largest distance from the wanted profile, as a share of its norm.
        trust_code: Import the net's class where the run names one of someone's own, as module:name.
    """

    run: str
    out: str
    width: float | None = None
    halflife: float | None = None
    step: int | None = None
    limit: float = 0.1
    trust_code: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.width is None) == (self.halflife is None):
            raise ValueError(f"width={self.width}, halflife={self.halflife}; expected one of them")
        if Path(self.out).exists() and not (Path(self.out).is_dir() and is_empty(Path(self.out))):
            raise ValueError(f"out={self.out!r} exists; expected a new folder")

    def average(self) -> Average:
        """The average that is wanted; the warm-up of a half-life is the run's."""
        if self.width is not None:
            return PowerFunction(self.width)
        assert self.halflife is not None
        return HalfLife(self.halflife, training_of(self.run).ema_warmup)


def make(config: AverageConfig) -> None:
    """Write the model and say how near it is."""
    with claim(Path(config.out)):
        make_claimed(config)


def make_claimed(config: AverageConfig) -> None:
    average, stored = config.average(), snapshots(Path(config.run) / "snapshots")
    denoiser = Denoiser.from_pretrained(Path(config.run) / "model", trust_code=config.trust_code)
    state, error = reconstruct(stored, average, config.step)
    if error > config.limit:
        kept = ", ".join(sorted({each.average.name for each in stored}))
        raise ValueError(
            f"the snapshots ({kept}) miss the profile of {average.name} by {error:.1%}; limit={config.limit:.1%}. "
            "Keep more snapshots, or widths nearer to it"
        )
    denoiser.load_state_dict(state)
    denoiser.save_pretrained(config.out)
    print(f"{config.out}: {average.name} from {len(stored)} snapshots; its profile is met to {error:.2%}")


def main(arguments: Sequence[str] | None = None) -> None:
    run_with_settings(AverageConfig, make, "sdescore average", __doc__, arguments)
