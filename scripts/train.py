#!/usr/bin/env python
"""The same as `sdescore train`."""

import sys

from sdescore.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
