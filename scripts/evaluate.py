#!/usr/bin/env python
"""Compare sets of samples with real data.

    python scripts/evaluate.py --samples runs/digits/heun/samples.npz
    python scripts/evaluate.py --samples '[a/samples.npz, b/images]' --reference digits:test --baseline digits:train
    python scripts/evaluate.py --samples mine.npz --reference my_data.npz --baseline '' \\
        --features my_features:embed --classifier my_features:classify

For each set: the Fréchet distance of its features to those of the reference, and the share of its samples in which the
classifier recognises a class with the stated probability. The reference's own share and the baseline's distance, of
other real data, say what can be reached. Distances depend on the number of samples: compare sets of one size.

features and classifier are functions of a Python file in the current folder, or of an installed module: they take model
values, a tensor (n, *shape) in [-1, 1], and return (n, d) features and (n, classes) probabilities.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared import features_of, markdown, named_object, open_source, parse, run, write_json
from torch import Tensor

from sdescore.data import Source
from sdescore.metrics import frechet_distance

Function = Callable[[Tensor], Any]


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of a comparison.

    Args:
        samples: A set of samples or a list of them: .npz files (array x) or folders of images.
        reference: Real data: digits:test, digits:train, a .npz file or a folder of images.
        baseline: Other real data, such as what the model was trained on; '' for none.
        features: module:function that makes features.
        classifier: module:function that gives the probabilities of classes; '' for none.
        threshold: Probability from which a sample counts as recognised.
        out: JSON file for the table; must not exist yet.
    """

    samples: str | list[str]
    reference: str = "digits:test"
    baseline: str = "digits:train"
    features: str = "digits:features"
    classifier: str = "digits:probabilities"
    threshold: float = 0.9
    out: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold}; valid are numbers between 0 and 1")
        if self.out is not None and Path(self.out).exists():
            raise ValueError(f"out={self.out!r} exists; valid is a new file")


class Judge:
    """Compares sets with real data.

    Args:
        reference: The real data.
        features: Function of model values (n, *shape) to features (n, d).
        classifier: Function of model values to the probabilities of classes (n, classes), or None.
        threshold: Probability from which a sample counts as recognised.
    """

    def __init__(self, reference: Source, features: Function, classifier: Function | None, threshold: float) -> None:
        self.reference, self.features, self.classifier, self.threshold = reference, features, classifier, threshold
        self.real = features_of(features, reference, "features of the reference")

    def distance(self, source: Source) -> float:
        """The Fréchet distance of a set's features to the reference's."""
        return frechet_distance(features_of(self.features, source, "features"), self.real)

    def recognised(self, source: Source) -> float | None:
        """The share of a set in which the classifier is sure of a class; None without a classifier."""
        if self.classifier is None:
            return None
        probabilities = features_of(self.classifier, source, "recognising")
        return float((probabilities.max(1).values >= self.threshold).double().mean())


def opened(config: EvaluateConfig) -> dict[str, Source]:
    """The reference, the baseline if there is one, and the sets, by their names; all of one shape."""
    reference = open_source(config.reference)
    names = [config.samples] if isinstance(config.samples, str) else config.samples
    found = {config.reference: reference}
    for name in [config.baseline] * bool(config.baseline) + names:
        found[name] = open_source(name, reference.scaling)
        if found[name].shape != reference.shape:
            raise ValueError(
                f"{name} has samples of shape {found[name].shape}; those of {config.reference} have {reference.shape}"
            )
    return found


def compare(config: EvaluateConfig) -> None:
    """Print the table, and write it if a file is named."""
    sources = opened(config)
    features = named_object(config.features, "features")
    classifier = named_object(config.classifier, "classifier") if config.classifier else None
    judge = Judge(sources[config.reference], features, classifier, config.threshold)
    rows = []
    for name, source in sources.items():
        distance = None if name == config.reference else judge.distance(source)
        row = {"set": name, "samples": len(source), "Fréchet distance": distance}
        rows.append(row | ({} if classifier is None else {"recognised": judge.recognised(source)}))
    print(markdown([{key: f"{v:.4f}" if isinstance(v, float) else v for key, v in row.items()} for row in rows]))
    if config.out is not None:
        write_json(Path(config.out), {"config": asdict(config), "sets": rows})


def main(arguments: Sequence[str] | None = None) -> None:
    run("evaluate.py", lambda: compare(parse(EvaluateConfig, "evaluate.py", __doc__, arguments)))


if __name__ == "__main__":
    main()
