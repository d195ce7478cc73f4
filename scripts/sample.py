#!/usr/bin/env python
"""The same as `sdescore sample`."""

import sys

from sdescore.cli import main

if __name__ == "__main__":
    main(["sample", *sys.argv[1:]])
