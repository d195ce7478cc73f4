"""What a first run imports, for the server from which processes are forked: it takes eight seconds."""

import sklearn.datasets
import sklearn.model_selection
import torch._dynamo
import torch.distributed.fsdp
import training_worker

import sdescore.cli.train
import sdescore.solvers

__all__ = ["sdescore", "sklearn", "torch", "training_worker"]
