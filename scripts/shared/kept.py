"""Rows of results in a file, a line of JSON each, from which a run that was stopped goes on."""

import json
from pathlib import Path
from typing import Any

from sdescore.cli.outputs import write_whole

__all__ = ["add", "kept_rows"]


def kept_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file; a last line that was not written to its end is dropped."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        write_whole(file, "".join(whole))
    return [json.loads(line) for line in whole]


def add(file: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Write a row to the file's end, and return it."""
    with file.open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    return row
