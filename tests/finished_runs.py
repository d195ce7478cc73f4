"""Runs that are trained once for all tests that need them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from sdescore.data.source import Source
from sdescore.data.statistics import checksum
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train


class FinishedRuns:
    """The folders of uninterrupted runs by their settings. Tests may read them, and change copies."""

    def __init__(self, make_folder: Callable[[str], Path]) -> None:
        self.make_folder = make_folder
        self.folders: dict[tuple[str, ...], Path] = {}

    def __call__(self, config: TrainConfig, source: Source | None = None) -> Path:
        """The folder of the run of a config, whatever its `out`; trained if there is none yet."""
        settings = json.dumps(replace(config, out="").to_json())
        key = (settings, str(torch.get_default_dtype()), "" if source is None else checksum(source))
        if key not in self.folders:
            folder = self.make_folder("finished")
            train(replace(config, out=str(folder)), source=source)
            self.folders[key] = folder
        return self.folders[key]

    def copy(self, config: TrainConfig, source: Source | None = None) -> None:
        """Put a copy of that run into config.out."""
        shutil.copytree(self(config, source), config.out)
