"""Change the code in small ways, and see whether the tests that run the changed line notice.

    pip install coverage
    python scripts/mutants.py --map             which test runs which line: the whole suite, once
    python scripts/mutants.py --count 500       a seeded sample of mutants; the same command goes on where it was
    python scripts/mutants.py --report          the share that was noticed, and the lines of those that were not

A mutant is one changed operator, comparison, constant or condition. It lives in a copy of the tree, never in this one.
What was found is in --state, a line a mutant, which survives any interruption.
"""

import argparse
import ast
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    "sdescore/processes",
    "sdescore/denoisers",
    "sdescore/sampling",
    "sdescore/density",
    "sdescore/objectives",
    "solvers",
)
SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
RC = "[run]\ndynamic_context = test_function\nsource = sdescore\nrelative_files = true\n"
MOST_TESTS = 12  # of those that run a line, the ones that run fewest lines in all
LONGEST = 120.0  # seconds that the tests of a mutant may take; one that takes longer counts as noticed


def _bare(node: Any) -> None:
    """Leave out a `not`."""
    node.operand = ast.UnaryOp(ast.Not(), node.operand)


def variants(node: ast.AST) -> Iterator[Any]:
    """What may stand in the place of a node, by a function that changes a copy of it."""
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
        yield lambda copy: setattr(copy, "op", SWAPS[type(copy.op)]())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield lambda copy: copy.ops.__setitem__(0, SWAPS[type(copy.ops[0])]())
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield lambda copy: setattr(copy, "value", copy.value + 1)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield lambda copy: setattr(copy, "value", not copy.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield lambda copy: copy.__dict__.update(op=ast.UAdd()) if isinstance(copy.op, ast.USub) else _bare(copy)
    if isinstance(node, ast.If | ast.IfExp):
        yield lambda copy: setattr(copy, "test", ast.UnaryOp(ast.Not(), copy.test))


def mutants(path: Path) -> Iterator[tuple[str, int]]:
    """The name and line of each mutant of a file."""
    for number, node in enumerate(ast.walk(ast.parse(path.read_text()))):
        for kind, _ in enumerate(variants(node)):
            yield f"{path.relative_to(ROOT)}:{number}:{kind}", node.lineno  # type: ignore[attr-defined]


def text_of(name: str) -> str:
    """The text of a mutant's file."""
    file, number, kind = name.split(":")
    tree = ast.parse((ROOT / file).read_text())
    node = [*ast.walk(tree)][int(number)]
    [*variants(node)][int(kind)](node)
    return ast.unparse(ast.fix_missing_locations(tree))


def sampled(count: int, seed: int) -> list[tuple[str, int]]:
    """A sample of all mutants of the rooms."""
    found = [each for room in ROOMS for path in sorted((ROOT / room).glob("*.py")) for each in mutants(path)]
    return random.Random(seed).sample(found, min(count, len(found)))


def copied(folder: Path) -> Path:
    """A copy of the tree in which solvers and nets lie where they are installed."""
    tree = folder / "tree"
    wanted = ("sdescore", "solvers", "nets", "tests", "scripts", "pyproject.toml", "README.md", "docs")
    for name in wanted:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, tree / name)
    for name in ("solvers", "nets"):
        os.symlink(tree / name, tree / "sdescore" / name)
    return tree


def pytest_in(tree: Path, *arguments: str, tool: tuple[str, ...] = (), timeout: float | None = None) -> int:
    """The exit code of tests in a copy of the tree; 1, a failure, for tests that take too long."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        sys.executable,
        *tool,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]
    try:
        return subprocess.run(command, cwd=tree, env=environment, timeout=timeout, capture_output=True).returncode
    except subprocess.TimeoutExpired:
        return 1


def map_lines(where: Path, tests: list[str]) -> None:
    """Write which test runs which line, to a file of coverage."""
    with tempfile.TemporaryDirectory() as name:
        tree = copied(Path(name))
        (tree / "coveragerc").write_text(RC)
        data = where.resolve()
        tool = ("-m", "coverage", "run", "--rcfile=coveragerc", f"--data-file={data}")
        pytest_in(tree, "--maxfail=100000", *(tests or ["tests"]), tool=tool)
    print(f"{where} is written")


def tests_of(where: Path, file: str, line: int) -> list[str]:
    """The tests that run a line: file::function, at most MOST_TESTS."""
    from coverage.numbits import numbits_to_nums

    connection = sqlite3.connect(where)
    rows = connection.execute(
        "select context.context, line_bits.numbits from line_bits join file on file.id = line_bits.file_id "
        "join context on context.id = line_bits.context_id where file.path like ?",
        (f"%{file.removeprefix('sdescore/')}",),
    ).fetchall()
    found = {context: len(nums) for context, bits in rows if context and line in (nums := numbits_to_nums(bits))}
    files = {path.stem: path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")}
    names = []
    for context in sorted(found, key=lambda each: found[each]):
        parts = context.split(".")
        at = next((k for k, part in enumerate(parts) if part in files), None)
        if at is not None:
            names.append("::".join([str(files[parts[at]]), *parts[at + 1 :]]))
    return names[:MOST_TESTS]


def run(state: Path, where: Path, count: int, seed: int, minutes: float) -> None:
    """Try the mutants of a sample that are not in the state file yet."""
    done = {json.loads(line)["name"] for line in state.read_text().splitlines()} if state.exists() else set()
    until = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder))
        for name, line in sampled(count, seed):
            if name in done or time.monotonic() > until:
                continue
            file = name.split(":")[0]
            chosen = tests_of(where, file, line)
            outcome = "not run by any test"
            if chosen:
                whole = (tree / file).read_text()
                (tree / file).write_text(text_of(name))
                outcome = "survived" if pytest_in(tree, *chosen, timeout=LONGEST) == 0 else "noticed"
                (tree / file).write_text(whole)
            with open(state, "a") as out:
                out.write(json.dumps({"name": name, "line": line, "outcome": outcome, "tests": chosen}) + "\n")
            print(f"{outcome:20} {file}:{line}", flush=True)


def report(state: Path) -> None:
    """The share of mutants that were noticed, and where the others are."""
    found = [json.loads(line) for line in state.read_text().splitlines()]
    counts = Counter(each["outcome"] for each in found)
    print(f"{len(found)} mutants: {', '.join(f'{n} {what}' for what, n in counts.most_common())}")
    for each in found:
        if each["outcome"] != "noticed":
            print(f"{each['outcome']:20} {each['name']}, line {each['line']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", action="store_true", help="find which test runs which line")
    parser.add_argument("--report", action="store_true", help="say what was found")
    parser.add_argument("--tests", nargs="*", default=[], help="with --map, these tests alone")
    parser.add_argument("--count", type=int, default=500, help="size of the sample")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--state", type=Path, default=Path("runs/mutants.jsonl"), help="where findings are kept")
    parser.add_argument("--lines", type=Path, default=Path("runs/mutants.coverage"), help="what --map writes")
    given = parser.parse_args()
    given.state.parent.mkdir(parents=True, exist_ok=True)
    if given.map:
        map_lines(given.lines, given.tests)
    elif given.report:
        report(given.state)
    else:
        run(given.state, given.lines, given.count, given.seed, given.minutes)


if __name__ == "__main__":
    main()
