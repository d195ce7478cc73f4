"""The command `sdescore`: each of its commands is a module of this folder, imported when it is run.

sdescore train --data digits --out runs/digits                        one process
accelerate launch -m sdescore.cli train ...                           the GPUs of this machine
torchrun --standalone --nproc_per_node 2 -m sdescore.cli train ...    two processes, on CPUs too
"""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "train": "train a denoiser",
    "sample": "draw samples from a trained model",
    "likelihood": "compute the log-likelihood of data under a trained model",
    "evaluate": "compare sets of samples with real data",
    "fit": "fit the times of a solver's steps to a trained model",
    "measure": "measure a data set: its shape, range, mean and standard deviation",
    "average": "make a model of another average of a run's weights",
    "solvers": "list the solvers that are installed",
    "demo": "train on handwritten digits, sample and score, in a few minutes",
}
TRAIN_EXTRA = ("jsonargparse", "matplotlib", "PIL", "scipy", "sklearn", "tensorboard")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command with its arguments, by default those of the command line.

    Raises SystemExit, with one line, for an unknown command, for what is not installed and for bad input.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: sdescore COMMAND ...; sdescore COMMAND --help says more\n")
        print("\n".join(f"  {each:10}  {text}" for each, text in COMMANDS.items()))
        return
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(COMMANDS)}"
        raise SystemExit(f"sdescore: {name!r} is no command; {hint}")
    try:
        import_module(f"sdescore.cli.{name}").main(rest)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAIN_EXTRA:
            raise
        raise SystemExit(f"sdescore {name}: {error.name} is not installed; pip install 'sdescore[train]'") from error
    except BrokenPipeError:  # who reads the output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
