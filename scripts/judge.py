"""A judge of sets of samples by their features alone: how far they are from real data, how many are recognised."""

from typing import Any

from shared import Function, features_of
from torch import Tensor

from sdescore.data.source import Source
from sdescore.evaluation.metrics import frechet_distance

__all__ = ["Judge", "sure"]


class Judge:
    """Compares sets with real data, by their features alone.

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

    def recognised(self, source: Source, **options: Any) -> float | None:
        """The share of a set in which the classifier is sure of a class; None without a classifier."""
        if self.classifier is None:
            return None
        return sure(features_of(self.classifier, source, "recognising", **options), self.threshold)


def sure(probabilities: Tensor, threshold: float) -> float:
    """The share of rows whose largest probability reaches the threshold."""
    return float((probabilities.max(1).values >= threshold).double().mean())
