"""Compare sets of samples with real data.

    sdescore evaluate --samples runs/digits/heun                                  digits
    sdescore evaluate --samples runs/mine/all --reference my_test --training my_train
    sdescore evaluate --samples '[runs/a/heun-18, runs/a/heun-35]' --out runs/a/evaluation
    sdescore evaluate --samples mine.npz --reference my_test.npz --training my_train.npz \\
        --features inception --weights inception_v3.safetensors --cache runs/features
    accelerate launch -m sdescore.cli evaluate ...                         the GPUs of this machine share the features
    torchrun --standalone --nproc_per_node 2 -m sdescore.cli evaluate ...  two processes share them, on CPUs too

For each set: Fréchet and kernel distance, precision and recall in the space of the features; sliced Wasserstein
distance and nearest training samples in that of the data; net calls and seconds, where `sdescore sample` left them. The
rows of the reference and of the training data say what can be reached. All but the kernel distance depend on the number
of samples: compare sets of one size. "outside" is the share of samples that leave the real data's range, or left it
before they were cut off, by more than an eighth of its width.

Features are by default those of the digits' judge for the digits, the values themselves for vectors, and the answers of
fixed random filters for all else: distances in them compare sets with each other; they are no FIDs. Others: a function
of a Python file in the current folder or of an installed module, module:function; an nn.Module that module:Class makes,
filled with --weights; a TorchScript file; or torchvision's Inception v3, with weights. They take model values, a tensor
(n, *shape) in [-1, 1], and give (n, d); a classifier gives probabilities (n, classes).
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from sdescore.cli.command_line import run_with_settings
from sdescore.cli.kept_features import kept_features
from sdescore.cli.outputs import claim, write_json, write_whole
from sdescore.cli.sets import Range, open_sets
from sdescore.cli.sources import features_of
from sdescore.cli.tables import markdown
from sdescore.common.checks import check_fields
from sdescore.common.files import is_empty, read_json
from sdescore.common.plugins import named_object
from sdescore.evaluation.default_features import default_features
from sdescore.evaluation.features import Features
from sdescore.evaluation.figures import draw_against_nfe
from sdescore.evaluation.judge import share_recognised
from sdescore.evaluation.metrics import frechet_distance, kernel_distance, precision_recall, sliced_wasserstein
from sdescore.evaluation.neighbours import Neighbourhood
from sdescore.evaluation.pictures import is_image
from sdescore.training.accelerator import build_accelerator

logger = logging.getLogger(__name__)
JUDGE = "sdescore.cli.digits_judge"
METRICS = ("frechet", "kernel", "precision-recall", "sliced-wasserstein", "neighbours")
TITLES = {
    "set": "set",
    "samples": "samples",
    "solver": "solver",
    "nfe": "net calls",
    "seconds": "seconds",
    "frechet": "Fréchet",
    "kernel": "kernel × 10³",
    "precision": "precision",
    "recall": "recall",
    "sliced_wasserstein": "sliced W",
    "nearest": "nearest ÷ real",
    "memorised": "memorised",
    "outside": "outside",
    "recognised": "recognised",
}
DIGITS = {"nfe": ".4g", "seconds": ".1f", "memorised": ".4f"}


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of a comparison.

    Args:
        samples: A set or a list of them: folders of `sdescore sample`, .npz files (array x) or folders of images.
        reference: Real data that the model has not seen: digits:test, or any data that training takes.
        training: What the model was trained on, for comparison and to find what is memorised; '' for none. By default
            digits:train beside digits:test, and none beside other data.
        features: module:function, module:Class with weights, a TorchScript file, inception with weights, values or
            random-filters; by default what fits the data.
        weights: File of the features' weights: .safetensors, or of torch.save if it holds tensors alone.
        classifier: module:function that gives the probabilities of classes, and knows the data; '' for none. By
            default the digits' judge for the digits, and none for other data. Never alone: a distance stands beside it.
        threshold: Probability from which a sample counts as recognised.
        metrics: Which to compute: frechet, kernel, precision-recall, sliced-wasserstein, neighbours.
        neighbours: How many neighbours the balls of precision and recall reach to.
        projections: Directions of the sliced Wasserstein distance.
        likelihood: JSON file that `sdescore likelihood` wrote, whose bits per dimension the table repeats.
        cache: Folder in which features of real data are kept for other comparisons.
        batch_size: Samples at a time in each process.
        out: Folder for evaluation.json, table.md and pictures; must not exist yet.
    """

    samples: str | list[str]
    reference: str = "digits:test"
    training: str | None = None
    features: str | None = None
    weights: str | None = None
    classifier: str | None = None
    threshold: float = 0.9
    metrics: tuple[str, ...] = METRICS
    neighbours: int = 3
    projections: int = 1000
    likelihood: str | None = None
    cache: str | None = None
    batch_size: int = 500
    out: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold}; expected numbers between 0 and 1")
        for name in ("neighbours", "batch_size", "projections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected integers of at least 1")
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown:
            raise ValueError(f"metrics has {', '.join(unknown)}; expected {', '.join(METRICS)}")
        if self.classifier and not {"frechet", "kernel"} & set(self.metrics):
            raise ValueError(
                f"classifier={self.classifier!r} with metrics={list(self.metrics)}; expected frechet or kernel among "
                "them: what is recognised need not look like the data"
            )
        if self.out is not None and Path(self.out).is_dir() and not is_empty(Path(self.out)):
            raise ValueError(f"out={self.out!r} is not empty; expected a new folder")


def with_training(config: EvaluateConfig) -> EvaluateConfig:
    """The settings with training data that fit the reference, where none are named."""
    fitting = "digits:train" if config.reference == "digits:test" else ""
    return replace(config, training=fitting) if config.training is None else config


def resolved(config: EvaluateConfig, shape: tuple[int, ...]) -> EvaluateConfig:
    """The settings with features and a classifier that fit the reference, where none are named."""
    digits = config.reference.partition(":")[0] == "digits"
    fitting: dict[str, Any] = {
        "features": "inception" if config.weights else f"{JUDGE}:features" if digits else default_features(shape),
        "classifier": f"{JUDGE}:probabilities" if digits and {"frechet", "kernel"} & set(config.metrics) else "",
    }
    return replace(config, **{name: value for name, value in fitting.items() if getattr(config, name) is None})


class Table:
    """Measures each set against the real data; the first set is the reference."""

    def __init__(self, config: EvaluateConfig, accelerator: Accelerator) -> None:
        names = [config.samples] if isinstance(config.samples, str) else config.samples
        config = with_training(config)
        self.sets = open_sets(config.reference, str(config.training), names)
        config = resolved(config, tuple(self.sets[0].source.shape))
        self.config, self.accelerator = config, accelerator
        logger.info("features: %s", config.features)
        self.features = Features(str(config.features), config.weights, accelerator.device)
        self.classifier = named_object(config.classifier, "classifier") if config.classifier else None
        self.options: dict[str, Any] = {"batch": config.batch_size, "accelerator": accelerator}
        self.around: Neighbourhood | None = None

    def rows(self) -> list[dict[str, Any]]:
        """A row for each set. All processes must take part; the main one alone has the rows."""
        config, made = self.config, []
        real = self.sets[: 2 if config.training else 1]
        for each in self.sets:  # what all processes share
            folder = config.cache if each in real else None
            features = kept_features(folder, self.features, each.source, each.name, **self.options)
            probabilities = None
            if self.classifier is not None:
                probabilities = features_of(self.classifier, each.source, f"recognising {each.name}", **self.options)
            made.append((each, features, probabilities))
        if not self.accelerator.is_main_process:
            return []
        values = [each.values() for each in real] if {"sliced-wasserstein", "neighbours"} & set(config.metrics) else []
        reference = values[0].flatten(1) if values else None
        if reference is not None and config.training and "neighbours" in config.metrics:
            self.around = Neighbourhood(values[1].flatten(1), reference)
            if self.around.usual is None:
                logger.warning(
                    "reference=%r is what the model was trained on: nearest ÷ real is left out, and distances to it "
                    "are no test of what is new. Keep some data back",
                    config.reference,
                )
        rows = []
        for number, (each, features, probabilities) in enumerate(made):
            logger.info("measuring %s", each.name)
            row = {"set": each.name, "samples": len(each.source), **each.known}
            if number:
                row |= self._in_features(features, made[0][1])
            if reference is not None:
                x = values[number] if number < len(real) else each.values()
                row |= self._in_data(x.flatten(1), reference, number)
                outside = Range.of(values[-1]).share_outside(x)  # of the training data, if there are any
                row["outside"] = max(outside, each.known.get("outside", 0.0))
            if probabilities is not None:
                row["recognised"] = share_recognised(probabilities, config.threshold)
            rows.append(row)
        return rows

    def _in_features(self, features: Tensor, real: Tensor) -> dict[str, float]:
        device, asked, row = self.accelerator.device, self.config.metrics, {}
        if device.type != "mps":  # which has no float64
            features, real = features.to(device), real.to(device)
        if "frechet" in asked:
            row["frechet"] = frechet_distance(features, real)
        if "kernel" in asked:
            groups = max(2, min(20, len(features) // 2, len(real) // 2))  # fewer where there are few samples
            row["kernel"], row["kernel_error"] = kernel_distance(features, real, groups)
        if "precision-recall" in asked:
            row["precision"], row["recall"] = precision_recall(real, features, self.config.neighbours)
        return row

    def _in_data(self, x: Tensor, reference: Tensor, number: int) -> dict[str, float]:
        asked = self.config.metrics
        row: dict[str, float] = {}
        if number and "sliced-wasserstein" in asked:
            value, error = sliced_wasserstein(x, reference, self.config.projections)
            row |= {"sliced_wasserstein": value, "sliced_wasserstein_error": error}
        if self.around is not None and number != 1:  # the training data are their own neighbours
            row |= self.around.measure(x)
        return row

    def pictures(self, out: Path, rows: list[dict[str, Any]]) -> None:
        """Samples with their neighbours, and quality over net calls; where there are images, and net calls."""
        shape = tuple(self.sets[0].source.shape)
        first = 2 if self.config.training else 1
        if self.around is not None and is_image(shape):
            for number, each in enumerate(self.sets[first:]):
                self.around.picture(out / f"neighbours-{number}.png", each.values().flatten(1), shape)
        priced = [row for row in rows[first:] if "nfe" in row and "solver" in row]
        names = {"frechet": "Fréchet distance", "kernel": "kernel distance", "sliced_wasserstein": "sliced Wasserstein"}
        titles = {key: title for key, title in names.items() if key in rows[-1]}
        if priced and titles:
            levels = {key: ("training data", rows[1][key]) for key in titles} if first == 2 else {}
            draw_against_nfe(out / "calls.png", priced, titles, levels)


def shown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table, with errors beside what they are of."""

    def cell(row: dict[str, Any], key: str) -> Any:
        value, factor = row.get(key), 1000 if key == "kernel" else 1
        if not isinstance(value, float):
            return value
        error = row.get(f"{key}_error")
        text = f"{value * factor:{DIGITS.get(key, '.4f')}}"
        return text if error is None else f"{text} ± {error * factor:.4f}"

    columns = [key for key in TITLES if any(key in row for row in rows)]
    return markdown([{TITLES[key]: cell(row, key) for key in columns} for row in rows])


def bits_in(path: str) -> dict[str, Any]:
    """The bits per dimension in a file of `sdescore likelihood`. Raises ValueError, naming it, if there are none."""
    try:
        found: dict[str, Any] = read_json(path)["bits_per_dim"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has no bits per dimension: {error!r}") from error
    return found


def compare(config: EvaluateConfig) -> None:
    """Print the table; write it, and pictures, if a folder is named."""
    with nullcontext() if config.out is None else claim(Path(config.out)):
        compare_claimed(config)


def compare_claimed(config: EvaluateConfig) -> None:
    likelihood = None if config.likelihood is None else bits_in(config.likelihood)
    accelerator = build_accelerator("no", "none", config.out or ".")
    table = Table(config, accelerator)
    rows = table.rows()
    if not accelerator.is_main_process:
        return
    text = shown(rows)
    if likelihood is not None:
        text += f"\n\nBits per dimension: {likelihood['mean']:.4f} ± {likelihood['stderr'] or 0:.4f}"
    print(text)
    if config.out is not None:
        out = Path(config.out)
        table.pictures(out, rows)
        write_whole(out / "table.md", text + "\n")
        known = {} if likelihood is None else {"bits_per_dim": likelihood}
        write_json(out / "evaluation.json", {"config": asdict(table.config), "sets": rows, **known})


def main(arguments: Sequence[str] | None = None) -> None:
    run_with_settings(EvaluateConfig, compare, "sdescore evaluate", __doc__, arguments)
