#!/usr/bin/env python
"""The same as `sdescore demo`."""

import sys

from sdescore.cli import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
