"""Make the tutorial's notebooks, run from their tops: build/notebooks/.

    python scripts/notebooks.py                     or: make notebooks
    python scripts/notebooks.py --out elsewhere

The text is TUTORIAL.md's, written once. Each notebook begins with what that begins with, so that it runs alone; its
last cell computes the lines of code in its tables.
"""

import argparse
import os
import re
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
PARTS = {  # file: sections of the tutorial
    "1-learning-a-score": (1, 2, 3),
    "2-chains-and-samplers": (4, 5, 6),
    "3-forecasts-and-steering": (7, 8),
}
LINE = re.compile(r"^\|.*\| `(\w+\(.*\))` \|$", re.MULTILINE)
SHOW = '''def show(line):
    """What a line of a table gives: the mean of the numbers, and their spread."""
    found = eval(line)
    values = getattr(found, "x", found).detach().double()
    print(f"{values.mean():9.3f} ± {values.std():.3f}  {tuple(values.shape)}  {line}")
'''


def sections(text: str) -> list[str]:
    """What the tutorial begins with, and each of its numbered sections."""
    return re.split(r"^(?=## \d+\. )", text, flags=re.MULTILINE)


def notebook(text: str, numbers: tuple[int, ...], folder: Path) -> nbformat.NotebookNode:
    """The notebook of some sections, not run yet; its links lead from the folder to what they name."""
    begin, *rest = sections(text)
    chosen = "\n".join(rest[number - 1] for number in numbers)
    calls = "\n".join(f"show({line!r})" for line in LINE.findall(chosen))
    end = f"## The lines of the tables\n\n```python\n{SHOW}\n\n{calls}\n```\n"
    page = f"{begin}\n{chosen}\n{end if calls else ''}"
    root = os.path.relpath(HERE, folder)
    page = re.sub(r"\]\((?!\w+:|#)([^)\s]+)\)", lambda link: f"]({root}/{link.group(1)})", page)
    made = jupytext.reads(page.replace("```sh\n", "```text\n"), "md")  # commands are to be read, not run
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


def main(arguments: list[str] | None = None) -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("notebooks.py", description=__doc__, formatter_class=layout)
    parser.add_argument("--out", type=Path, default=HERE.parent / "build/notebooks")
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    text = (HERE / "TUTORIAL.md").read_text("utf-8")
    for name, numbers in PARTS.items():
        made = notebook(text, numbers, out)
        NotebookClient(made, timeout=180, resources={"metadata": {"path": str(HERE)}}).execute()
        nbformat.write(made, out / f"{name}.ipynb")
        print(out / f"{name}.ipynb", file=sys.stderr)


if __name__ == "__main__":
    main()
