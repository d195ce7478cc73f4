"""Samples that cannot be read, replaced by others."""

import logging
from collections.abc import Sequence

import torch

from sdescore.data.source import Batch, Source

__all__ = ["SkipUnreadable"]

logger = logging.getLogger(__name__)


class SkipUnreadable:
    """A source that replaces a sample that cannot be read by the next one, with one warning that names it.

    The files alone decide which sample replaces which, so that a resumed run sees the same. The replacement counts
    twice: harmless in training, wrong in measurements.

    Raises ValueError, with the last error, if `most` samples in a row cannot be read.
    """

    def __init__(self, source: Source, most: int = 100) -> None:
        self.source = source
        self.most = most
        self.shape = source.shape
        self.scaling = source.scaling
        self.classes = source.classes
        self.class_names = getattr(source, "class_names", None)
        self.lazy = source.lazy
        self.skipped: set[int] = set()

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        try:
            return self.source.__getitems__(indices)
        except ValueError:
            found = [self._one(i) for i in indices]
        labels = [label for _, label in found if label is not None]
        return torch.cat([raw for raw, _ in found]), torch.cat(labels) if labels else None

    def _one(self, index: int) -> Batch:
        problem = None
        for offset in range(min(self.most, len(self))):
            at = (index + offset) % len(self)
            try:
                return self.source.__getitems__([at])
            except ValueError as error:
                problem = error
                if at not in self.skipped:
                    self.skipped.add(at)
                    logger.warning("skipped: %s", error)
        raise ValueError(f"{min(self.most, len(self))} samples in a row cannot be read; the last: {problem}")
