"""Training with Accelerate: settings, the step, the loop, checkpoints, averages of weights."""

from sdescore.training.averages import Averages, HalfLife, PowerFunction
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train
from sdescore.training.run_log import read_log
from sdescore.training.trainer import Trainer

__all__ = ["Averages", "HalfLife", "PowerFunction", "TrainConfig", "Trainer", "read_log", "train"]
