#!/usr/bin/env python
"""The same as `sdescore measure`."""

import sys

from sdescore.cli import main

if __name__ == "__main__":
    main(["measure", *sys.argv[1:]])
