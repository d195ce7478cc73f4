"""python -m sdescore.cli, which launchers of several processes need."""

from sdescore.cli import main

main()
