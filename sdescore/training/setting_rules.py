"""What the settings of a training run may be, and which of them a resumed run may change."""

from sdescore.data.ranges import SCALES
from sdescore.denoisers.conversions import PREDICTIONS
from sdescore.objectives import TIME_DISTRIBUTIONS, WEIGHTINGS
from sdescore.training.learning_rate import DECAYS

__all__ = ["AT_LEAST_ONE", "AT_LEAST_ZERO", "CHOICES", "FREE"]

CHOICES = {
    "corrupt": ("stop", "skip"),
    "data_scale": (None, *SCALES),
    "predicts": tuple(PREDICTIONS),
    "weighting": tuple(WEIGHTINGS),
    "time_distribution": tuple(TIME_DISTRIBUTIONS),
    "optimizer": ("adamw", "adam"),
    "decay": tuple(DECAYS),
    "mixed_precision": ("auto", "no", "bf16", "fp16"),
    "tracker": ("tensorboard", "none"),
}
AT_LEAST_ONE = ("accumulation", "batch_size", "log_every", "save_every", "keep", "sample_count", "sample_steps")
AT_LEAST_ZERO = ("steps", "warmup", "workers", "seed", "sample_every", "weight_decay", "snapshot_every")

# What a resumed run may change. The data is compared by itself. How a step is computed affects the last bits of the
# weights, and dropout, about which there is a warning.
FREE = {
    *("data", "data_args", "statistics", "workers", "autoencoder", "autoencoder_args", "codes"),
    *("steps", "minutes", "accumulation", "channels_last", "compile"),
    *("out", "save_every", "save_minutes", "keep", "log_every", "tracker", "progress", "snapshot_every"),
    *("sample_every", "sample_count", "sample_solver", "sample_steps"),
}
