#!/usr/bin/env python
"""Train a denoiser.

    python scripts/train.py --out runs/digits --steps 3000                  one process
    accelerate launch scripts/train.py --config my.yaml                     the GPUs of this machine
    torchrun --standalone --nproc_per_node 2 scripts/train.py ...           two processes, on CPUs too
    python scripts/train.py --config runs/digits/config.json --resume       go on after an interruption

Afterwards runs/digits/model is all that sampling needs. The result does not depend on the number of processes,
but for dropout.
"""

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import fields

from accelerate import PartialState
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from sdescore.training.config import TrainConfig
from sdescore.training.loop import train


class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves the lines of the description as they are."""


def parse(arguments: Sequence[str] | None = None) -> tuple[TrainConfig, bool]:
    """The config and whether to resume."""
    parser = ArgumentParser(prog="train.py", description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--config", action="config", help="File of settings, YAML or JSON; flags after it count more.")
    parser.add_argument("--resume", action="store_true", help="Go on from the newest sound checkpoint in --out.")
    parser.add_class_arguments(TrainConfig)
    given = parser.parse_args(arguments)
    try:
        return TrainConfig(**{each.name: given[each.name] for each in fields(TrainConfig)}), given["resume"]
    except ValueError as error:
        parser.error(str(error))


def main() -> None:
    first = os.environ.get("RANK", "0") == "0"  # one process speaks for all
    logging.basicConfig(level=logging.INFO if first else logging.CRITICAL, format="%(message)s")
    logging.getLogger("sdescore.skipping").setLevel(logging.WARNING)  # but each names the samples that it cannot read
    config, resume = parse()
    try:
        train(config, resume=resume)
    except (ValueError, OSError, FloatingPointError) as error:
        raise SystemExit(f"train.py: {error}") from error
    finally:
        PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
