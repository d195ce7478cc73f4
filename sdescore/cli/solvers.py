"""List the solvers that are installed, those of other packages included.

    sdescore solvers

The names are those that --solver and sample(..., solver=) take.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from sdescore.cli.tables import markdown
from sdescore.sampling.table import table


def main(arguments: Sequence[str] | None = None) -> None:
    description = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser("sdescore solvers", description=__doc__, formatter_class=description).parse_args(arguments)
    print(markdown([asdict(each) for each in table()]))
