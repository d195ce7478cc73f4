"""Losses of score matching, weightings, and distributions of training times."""

from sdescore.objectives.denoising import denoising_score_matching
from sdescore.objectives.score_matching import (
    explicit_score_matching,
    finite_difference_energy_matching,
    finite_difference_score_matching,
    implicit_score_matching,
    sliced_score_matching,
    variance_reduced_score_matching,
)
from sdescore.objectives.time_distributions import TIME_DISTRIBUTIONS, TimeDistribution, log_normal, stratified
from sdescore.objectives.weightings import WEIGHTINGS, Weighting

__all__ = [
    "TIME_DISTRIBUTIONS",
    "WEIGHTINGS",
    "TimeDistribution",
    "Weighting",
    "denoising_score_matching",
    "explicit_score_matching",
    "finite_difference_energy_matching",
    "finite_difference_score_matching",
    "implicit_score_matching",
    "log_normal",
    "sliced_score_matching",
    "stratified",
    "variance_reduced_score_matching",
]
