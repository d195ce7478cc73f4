"""How good nets and samples are: a net's conventions, distances between sets, their features, neighbours, pictures."""

from sdescore.evaluation.check_net import NetReport, check_net
from sdescore.evaluation.features import Features
from sdescore.evaluation.judge import Judge
from sdescore.evaluation.metrics import frechet_distance, kernel_distance, nearest, precision_recall, sliced_wasserstein
from sdescore.evaluation.neighbours import Neighbourhood
from sdescore.evaluation.pictures import save_animation, save_grid, save_slices, to_pixels
from sdescore.evaluation.trajectories import animate, plot_trajectory, save_trajectory

__all__ = [
    "Features",
    "Judge",
    "Neighbourhood",
    "NetReport",
    "animate",
    "check_net",
    "frechet_distance",
    "kernel_distance",
    "nearest",
    "plot_trajectory",
    "precision_recall",
    "save_animation",
    "save_grid",
    "save_slices",
    "save_trajectory",
    "sliced_wasserstein",
    "to_pixels",
]
