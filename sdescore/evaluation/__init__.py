"""How good nets and samples are: a net's conventions, distances between sets, their features, neighbours, pictures."""

from sdescore.evaluation.check_net import NetReport, check_net
from sdescore.evaluation.features import Features
from sdescore.evaluation.judge import Judge
from sdescore.evaluation.metrics import frechet_distance, kernel_distance, nearest, precision_recall, sliced_wasserstein
from sdescore.evaluation.neighbours import Neighbourhood
from sdescore.evaluation.pictures import save_grid, to_pixels

__all__ = [
    "Features",
    "Judge",
    "Neighbourhood",
    "NetReport",
    "check_net",
    "frechet_distance",
    "kernel_distance",
    "nearest",
    "precision_recall",
    "save_grid",
    "sliced_wasserstein",
    "to_pixels",
]
