"""Train a denoiser.

    sdescore train --out runs/digits --steps 3000                                 one process
    accelerate launch -m sdescore.cli train --config my.yaml                      the GPUs of this machine
    torchrun --standalone --nproc_per_node 2 -m sdescore.cli train ...            two processes, on CPUs too
    sdescore train --config runs/digits/config.json --resume                      go on after an interruption

Afterwards runs/digits/model is all that sampling needs. Ctrl-C, SIGTERM and SIGHUP leave a checkpoint, and end it with
the status 130, 143 or 129. The result does not depend on the number of processes,
but for dropout.
"""

import signal
import sys
from collections.abc import Sequence

from sdescore.cli.command_line import construct, parser_of, run
from sdescore.cli.outputs import is_first_process
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train


def parse(arguments: Sequence[str] | None = None) -> tuple[TrainConfig, bool]:
    """The config and whether to resume."""
    parser = parser_of(TrainConfig, "sdescore train", __doc__)
    parser.add_argument("--resume", action="store_true", help="Go on from the newest sound checkpoint in --out.")
    given = parser.parse_args(arguments)
    return construct(TrainConfig, parser, given), given["resume"]


def train_as_told(arguments: Sequence[str] | None) -> None:
    config, resume = parse(arguments)
    try:
        train(config, resume=resume)
    except KeyboardInterrupt as error:
        if is_first_process():
            print(f"sdescore train: {str(error) or 'interrupted'}", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def main(arguments: Sequence[str] | None = None) -> None:
    run("sdescore train", lambda: train_as_told(arguments))
