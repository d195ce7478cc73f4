"""Measure a data set once: its samples, shape, range, mean and standard deviation.

    sdescore measure --data path/of/images --out images.json
    sdescore train --data path/of/images --statistics images.json ...

Nets are told the standard deviation of their data, to which they scale what goes in and out. Training measures it by
itself on 4,096 samples, and keeps it in the run's statistics.json; this looks at all, and finds files that cannot be
read before a long run does.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sdescore.cli.command_line import run_with_settings
from sdescore.cli.outputs import make_folder
from sdescore.cli.tables import markdown
from sdescore.common.checks import check_fields
from sdescore.data.statistics import measure
from sdescore.training.config import TrainConfig


@dataclass(frozen=True)
class MeasureConfig:
    """Settings of a measurement; those of the data are named as for training.

    Args:
        data: "digits", a file or folder of samples, or module:name, as `sdescore train` takes it.
        out: JSON file to write; must not exist yet.
        count: Samples to look at, evenly spaced; by default all.
        data_args: Arguments of module:name.
        data_key: Name of the samples in a .npz file or a Hugging Face data set.
        label_key: Name of their labels, by default y; of a table, none.
        data_low: Smallest raw value of arrays, where they do not say it themselves, or one for each column or channel.
        data_high: Largest raw value of arrays.
        data_scale: What floating point is scaled by: whole, columns or standard.
        data_levels: Number of equally spaced raw values of arrays that are quantised.
        corrupt: What to do about samples that cannot be read: stop, or skip them with a warning that names each.
    """

    data: str
    out: str
    count: int | None = None
    data_args: dict[str, Any] = field(default_factory=dict)
    data_key: str = "x"
    label_key: str | None = None
    data_low: float | tuple[float, ...] | None = None
    data_high: float | tuple[float, ...] | None = None
    data_scale: str | None = None
    data_levels: int | None = None
    corrupt: str = "stop"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.count is not None and self.count < 1:
            raise ValueError(f"count={self.count}; expected integers of at least 1")
        if Path(self.out).exists():
            raise ValueError(f"out={self.out!r} exists; expected a new file")

    def training(self) -> TrainConfig:
        """The settings of a run on this data."""
        return TrainConfig(**{name: value for name, value in asdict(self).items() if name not in ("out", "count")})


def make(config: MeasureConfig) -> None:
    """Measure, write and show."""
    make_folder(Path(config.out).parent)
    found = measure(config.training().build_source(), config.count, progress=True)
    found.write(config.out)
    print(markdown([{"data": name, "value": str(value)} for name, value in asdict(found).items()]))


def main(arguments: Sequence[str] | None = None) -> None:
    run_with_settings(MeasureConfig, make, "sdescore measure", __doc__, arguments)
