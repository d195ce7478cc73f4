#!/usr/bin/env python
"""The same as `sdescore evaluate`."""

import sys

from sdescore.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
