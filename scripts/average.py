#!/usr/bin/env python
"""The same as `sdescore average`."""

import sys

from sdescore.cli import main

if __name__ == "__main__":
    main(["average", *sys.argv[1:]])
