"""The codes that a net is trained on, where the settings name an autoencoder."""

import time
from pathlib import Path

from accelerate import Accelerator

from sdescore.data.codes import is_codes, write_codes
from sdescore.data.source import Source
from sdescore.interop.autoencoders import find_autoencoder
from sdescore.training.config import TrainConfig

__all__ = ["codes_of"]

POLLED = 1.0  # seconds between looks at what the main process makes, for longer than processes wait for each other


def codes_of(source: Source, config: TrainConfig, accelerator: Accelerator) -> Source:
    """The codes of the data, which the main process makes if need be; the data themselves without an autoencoder.

    Raises ValueError for an autoencoder that is not found, and as write_codes().
    """
    if config.autoencoder is None:
        if config.codes is not None:
            raise ValueError(f"codes={config.codes!r}, but no autoencoder; expected one, or data={config.codes!r}")
        return source
    if getattr(source, "codes", None) is not None:
        raise ValueError(f"data={config.data!r} are codes already; expected no autoencoder")
    autoencoder = find_autoencoder(config.autoencoder, config.autoencoder_args, trust_code=True)
    folder = Path(config.codes or Path(config.out, "codes"))
    while not accelerator.is_main_process and not is_codes(folder):
        time.sleep(POLLED)
    return write_codes(
        source, autoencoder.to(accelerator.device), folder, workers=config.workers, progress=config.progress
    )
