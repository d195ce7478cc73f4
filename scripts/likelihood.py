#!/usr/bin/env python
"""The same as `sdescore likelihood`."""

import sys

from sdescore.cli import main

if __name__ == "__main__":
    main(["likelihood", *sys.argv[1:]])
