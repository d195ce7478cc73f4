#!/usr/bin/env python
"""The same as `sdescore fit`."""

import sys

from sdescore.cli import main

if __name__ == "__main__":
    main(["fit", *sys.argv[1:]])
