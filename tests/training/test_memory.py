"""What a process on a CPU does with memory that it frees."""

import sys

import pytest
import torch

from sdescore.training.accelerator import keep_memory


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_kept() -> None:
    from resource import RUSAGE_SELF, getrusage

    def faults() -> int:
        """New pages for 160 MB that are written and freed."""
        before = getrusage(RUSAGE_SELF).ru_minflt
        del [torch.ones(2**22) for _ in range(10)][:]
        return getrusage(RUSAGE_SELF).ru_minflt - before

    keep_memory()
    faults()
    assert min(faults() for _ in range(3)) < 4000  # of 40,000 pages
