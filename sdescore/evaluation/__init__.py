"""How good samples are: distances between sets, and pictures."""

from sdescore.evaluation.metrics import frechet_distance, kernel_distance, nearest, precision_recall, sliced_wasserstein
from sdescore.evaluation.pictures import save_grid, to_pixels

__all__ = [
    "frechet_distance",
    "kernel_distance",
    "nearest",
    "precision_recall",
    "save_grid",
    "sliced_wasserstein",
    "to_pixels",
]
