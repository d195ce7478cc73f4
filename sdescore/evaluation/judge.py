"""A judge of sets of samples by their features alone: how far they are from real data, how many are recognised."""

import torch
from torch import Tensor

from sdescore.evaluation.features import Function, rows_of
from sdescore.evaluation.metrics import frechet_distance

__all__ = ["Judge", "share_recognised"]

BATCH = 500


class Judge:
    """Compares sets of model values (n, *shape), in [-1, 1], with real ones.

    Args:
        reference: The real ones.
        features: Function of model values to features (n, d).
        classifier: Function of model values to the probabilities of classes (n, classes).
        threshold: Probability from which a sample counts as recognised.
    """

    def __init__(self, reference: Tensor, features: Function, classifier: Function, threshold: float) -> None:
        self.features, self.classifier, self.threshold = features, classifier, threshold
        self.real = _in_batches(features, reference)

    def distance(self, x: Tensor) -> float:
        """The Fréchet distance of a set's features to the reference's."""
        return frechet_distance(_in_batches(self.features, x), self.real)

    def recognised(self, x: Tensor) -> float:
        """The share of a set in which the classifier is sure of a class."""
        return share_recognised(_in_batches(self.classifier, x), self.threshold)


def _in_batches(function: Function, x: Tensor) -> Tensor:
    return torch.cat([rows_of(function, some) for some in x.split(BATCH)])


def share_recognised(probabilities: Tensor, threshold: float) -> float:
    """The share of rows (n, classes) whose largest probability reaches the threshold."""
    return float((probabilities.max(1).values >= threshold).double().mean())
