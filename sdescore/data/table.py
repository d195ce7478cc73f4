"""Tables in text files: CSV with a first line of names."""

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdescore.common.scaling import Scaling
from sdescore.data.conditions import Conditioned
from sdescore.data.source import Arrays, Source, scaling_of

__all__ = ["columns_of", "is_table", "read_table", "table", "write_table"]

MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
SUFFIXES = (".csv", ".tsv")
LISTED = 5  # columns that an error names


def is_table(path: Path) -> bool:
    """Whether a file has the name of a table in text."""
    return path.suffix.lower() in SUFFIXES


def read_table(path: str | Path) -> dict[str, list[tuple[int, str]]]:
    """The columns of a table by their names: for each row its line in the file, and the text of its cell.

    Columns end at commas, semicolons or tabs, whichever the first line has most of. Raises ValueError, naming the file,
    if it is missing, no text, without names or without rows, and naming the line where a row has another number of
    cells.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(path)!r}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no text that can be read: {error}") from error
    begin = text.partition("\n")[0]
    lines = csv.reader(text.splitlines(), delimiter=max(",;\t", key=begin.count), skipinitialspace=True, strict=True)
    try:
        rows = [(lines.line_num, [cell.strip() for cell in cells]) for cells in lines if any(map(str.strip, cells))]
    except csv.Error as error:
        raise ValueError(f"{path}, line {lines.line_num}: {error}") from error
    if len(rows) < 2:
        raise ValueError(f"{path} has {len(rows)} lines; expected the columns' names and at least one row")
    (_, names), *rows = rows
    if all(_number(cell) is not None for cell in names):
        raise ValueError(f"{path} begins with numbers, {', '.join(names[:3])} …; expected the columns' names")
    for number, name in enumerate(names):
        if not name or name in names[:number]:
            said = f"the name {name!r} again" if name else "no name"
            raise ValueError(f"{path}: column {number} has {said}; expected a name of its own for each column")
    for line, cells in rows:
        if len(cells) != len(names):
            raise ValueError(f"{path}, line {line}, has {len(cells)} cells; expected {len(names)}, as the first line")
    return {name: [(line, cells[number]) for line, cells in rows] for number, name in enumerate(names)}


def _number(cell: str) -> float | None:
    """The finite number that a cell says, if it does."""
    try:
        found = float(cell)
    except ValueError:
        return None
    return found if math.isfinite(found) and "_" not in cell else None


def _numbers(path: str | Path, columns: dict[str, list[tuple[int, str]]], names: Sequence[str]) -> Tensor:
    """The named columns (rows, columns), float64. Raises ValueError, naming each column that has anything else."""
    values, problems = [], []
    for name in names:
        column = [_number(cell) for _, cell in columns[name]]
        values.append([number or 0.0 for number in column])
        if None in column:
            row = column.index(None)
            line, cell = columns[name][row]
            what = "no value" if cell.lower() in MISSING else repr(cell)
            problems.append(f"column {name!r} has {what} in row {row}, line {line}")
    if problems:
        more = f", and {len(problems) - LISTED} columns more" if len(problems) > LISTED else ""
        raise ValueError(
            f"{path}: {'; '.join(problems[:LISTED])}{more}; expected numbers. Fill in or leave out rows "
            "without a value; leave out columns that are no numbers, or give one as the labels (label_key)"
        )
    return torch.tensor(values, dtype=torch.float64).T.contiguous()


def columns_of(path: str | Path) -> dict[str, Tensor]:
    """All columns by name, each (rows, 1), float64. Raises ValueError as table() does."""
    columns = read_table(path)
    return dict(zip(columns, _numbers(path, columns, list(columns)).split(1, 1), strict=True))


def _labels(path: str | Path, column: list[tuple[int, str]], name: str) -> tuple[Tensor, list[str] | None]:
    """The labels that a column has: its integers from 0; of other texts their numbers in order, and the texts."""
    for row, (line, cell) in enumerate(column):
        if cell.lower() in MISSING:
            raise ValueError(f"{path}: column {name!r} has no value in row {row}, line {line}; expected labels")
    cells = [cell for _, cell in column]
    if all(cell.isdecimal() for cell in cells):
        return torch.tensor([int(cell) for cell in cells]), None
    kinds = sorted(set(cells))
    return torch.tensor([kinds.index(cell) for cell in cells]), kinds


def table(
    path: str | Path,
    label_key: str | None = None,
    scaling: Scaling | str | None = None,
    conditions: Sequence[str] = (),
    names: Sequence[str] | None = None,
) -> Source:
    """The rows of a CSV file as samples (columns,), float64; each column has by default a scale of its own.

    Args:
        path: File in UTF-8, with the columns' names in its first line; see read_table.
        label_key: Column of the labels: integers from 0, or texts, whose order numbers them; None for none.
        scaling: As for Arrays; one with names chooses the columns, and their order.
        conditions: Columns that are no data but known of each sample.
        names: The columns that are data; by default those of the scaling, or all others.

    Raises ValueError, naming the column, the row and the line, for missing values and for what is no number.
    """
    columns = read_table(path)
    wanted = tuple(names or ()) or (scaling.names if isinstance(scaling, Scaling) else None) or ()
    for name in (*([label_key] if label_key else []), *conditions, *wanted):
        if name not in columns:
            raise ValueError(f"{path} has no column {name!r}; expected one of {', '.join(map(repr, columns))}")
    chosen = wanted or tuple(name for name in columns if name != label_key and name not in conditions)
    if not chosen:
        raise ValueError(f"{path} has no columns but the labels and the conditions; expected at least one")
    raw = _numbers(path, columns, chosen)
    labels, class_names = (None, None) if label_key is None else _labels(path, columns[label_key], label_key)
    try:
        known = replace(scaling, names=chosen) if isinstance(scaling, Scaling) else scaling_of(raw, scaling, chosen)
        source = Arrays(raw, labels, known)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    source.class_names = class_names
    if not conditions:
        return source
    return Conditioned(source, {name: _numbers(path, columns, [name]).float() for name in conditions})


def write_table(columns: dict[str, Any]) -> str:
    """The text of a CSV file of columns by name: texts, or numbers with the digits that float32 tells apart in it."""
    cells = []
    for values in columns.values():
        array = np.asarray(values)
        if array.dtype.kind != "f":
            cells.append(list(map(str, array.tolist())))
            continue
        largest, spread = float(np.abs(array).max()), float(np.ptp(array))
        digits = 7 if spread == 0 else min(max(math.ceil(math.log10(largest / spread)) + 7, 7), 17)
        cells.append([f"{value:.{digits}g}" for value in array.tolist()])
    return "\n".join(_line(row) for row in [list(columns), *map(list, zip(*cells, strict=True))]) + "\n"


def _line(cells: list[str]) -> str:
    quoted = ['"' + cell.replace('"', '""') + '"' if any(c in cell for c in ',;\t"\r\n') else cell for cell in cells]
    return ",".join(quoted)
