"""The judge of generated digits: features and a classifier, fitted on the 1,500 training digits and nothing else.

Both take model values (n, 1, 8, 8) in [-1, 1].
"""

import warnings
from functools import lru_cache

import numpy as np
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from torch import Tensor

from sdescore.data.load import digits


def _flat(x: Tensor) -> np.ndarray:
    """Model values as rows (n, 64) in [0, 1]."""
    if tuple(x.shape[1:]) != (1, 8, 8):
        raise ValueError(f"samples have shape {tuple(x.shape)}; the digits' judge takes (n, 1, 8, 8)")
    return ((x.to("cpu", torch.float64) + 1) / 2).flatten(1).numpy()


@lru_cache
def _training() -> tuple[np.ndarray, np.ndarray]:
    source = digits("train")
    raw, labels = source.__getitems__(range(len(source)))
    assert labels is not None
    return _flat(source.scaling.to_model(raw)), labels.numpy()


@lru_cache
def _perceptron() -> MLPClassifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the epochs are fixed, so that the features are
        return MLPClassifier((64,), alpha=0.1, max_iter=150, random_state=0).fit(*_training())


@lru_cache
def _classifier() -> CalibratedClassifierCV:
    # Narrow kernels are sure of nothing that is far from all digits; a sigmoid would leave them unsure of most digits.
    return CalibratedClassifierCV(SVC(C=10, gamma=0.5), method="isotonic", cv=5).fit(*_training())


def features(x: Tensor) -> Tensor:
    """The 64 hidden units of a perceptron that tells the training digits apart, (n, 64)."""
    net = _perceptron()
    return torch.from_numpy(np.maximum(_flat(x) @ net.coefs_[0] + net.intercepts_[0], 0))


def probabilities(x: Tensor) -> Tensor:
    """The calibrated probability of each of the ten digits, (n, 10)."""
    return torch.from_numpy(_classifier().predict_proba(_flat(x)))
