"""List the solvers that are installed, those of other packages included.

    sdescore solvers

The names are those that --solver and sample(..., solver=) take. Of a solver that says nothing of itself there is its
name alone.
"""

import argparse
from collections.abc import Sequence

from sdescore.cli.tables import markdown
from sdescore.sampling.table import table

TITLES = {
    "name": "name",
    "kind": "kind",
    "order": "order",
    "calls": "net calls a step",
    "use": "for",
    "paper": "paper",
    "link": "link",
}


def main(arguments: Sequence[str] | None = None) -> None:
    layout = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser("sdescore solvers", description=__doc__, formatter_class=layout).parse_args(arguments)
    rows = [{title: getattr(each, name) or None for name, title in TITLES.items()} for each in table()]
    print(markdown(rows, text=("kind", "for", "paper", "link")))
