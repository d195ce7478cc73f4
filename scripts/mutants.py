"""Change the code in small ways, and see whether the tests that run the changed line notice.

    pip install coverage
    python scripts/mutants.py --map             which test runs which line: those of the rooms, once
    python scripts/mutants.py --count 500       a seeded sample of mutants; the same command goes on where it was
    python scripts/mutants.py --report          the share that was noticed, and the lines of those that were not

A mutant is one changed operator, comparison, constant or condition. It lives in a copy of the tree, never in this one.
Its tests run in a process that is forked after torch is imported, fastest first, up to the first that fails.
What was found is in --state, a line a mutant, which survives any interruption.
"""

import argparse
import ast
import contextlib
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

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
RC = "[run]\ninclude = sdescore/*,solvers/*\nrelative_files = true\n"
CONTEXTS = """
import coverage

def pytest_runtest_logstart(nodeid, location):
    coverage.Coverage.current().switch_context(nodeid.split("[")[0])
"""
OPTIONS = ["-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider"]
ENOUGH = 60.0  # seconds that the tests of a mutant took together when nothing was changed
LONGEST = 180  # seconds of process time, after which a mutant counts as noticed: it does not come to an end


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


def changed(name: str) -> tuple[str, str, str]:
    """The text of a mutant's file, and what was and is at the place of the change."""
    file, number, kind = name.split(":")
    tree = ast.parse((ROOT / file).read_text())
    node = [*ast.walk(tree)][int(number)]
    before = ast.unparse(node)
    [*variants(node)][int(kind)](node)
    return ast.unparse(ast.fix_missing_locations(tree)), before, ast.unparse(node)


def sampled(count: int, seed: int, rooms: Sequence[str] = ROOMS) -> list[tuple[str, int]]:
    """A sample of all mutants of rooms; a smaller one is the beginning of a larger one."""
    found = [each for room in rooms for path in sorted((ROOT / room).glob("*.py")) for each in mutants(path)]
    random.Random(seed).shuffle(found)
    return found[:count]


def copied(folder: Path) -> Path:
    """A copy of the tree in which solvers and nets lie where they are installed."""
    tree = folder / "tree"
    wanted = ("sdescore", "solvers", "nets", "tests", "scripts", "pyproject.toml", "README.md", "docs")
    for source in (ROOT / name for name in wanted):
        if source.is_dir():
            shutil.copytree(source, tree / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, tree / source.name)
    for name in ("solvers", "nets"):
        os.symlink(tree / name, tree / "sdescore" / name)
    return tree


def map_lines(where: Path, tests: list[str]) -> None:
    """Write which test runs which line, to a file of coverage, and beside it how long each took."""
    with tempfile.TemporaryDirectory() as name:
        tree = copied(Path(name))
        (tree / "coveragerc").write_text(RC)
        (tree / "contexts_of_tests.py").write_text(CONTEXTS)
        environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        tool = ["-m", "coverage", "run", "--rcfile=coveragerc", f"--data-file={where.resolve()}", "-m", "pytest"]
        more = [
            "--maxfail=100000",
            "-p",
            "contexts_of_tests",
            f"--junitxml={where.resolve()}.xml",
            "-o",
            "junit_family=xunit1",
        ]
        subprocess.run([sys.executable, *tool, *OPTIONS, *more, *tests], cwd=tree, env=environment)
    print(f"{where} is written")


def seconds_of(where: Path) -> dict[str, float]:
    """How long each test took, all of its parameters together; those that failed are left out.

    Of a map that was interrupted times are not known: a second each.
    """
    report = Path(f"{where}.xml")
    if not report.exists():
        with contextlib.closing(sqlite3.connect(where)) as connection:
            return {test: 1.0 for (test,) in connection.execute("select context from context where context != ''")}
    found: dict[str, float] = defaultdict(float)
    failed = set()
    for case in ElementTree.parse(report).iter("testcase"):
        file, name = case.attrib["file"], case.attrib["name"].split("[")[0]
        classes = case.attrib["classname"].removeprefix(file.removesuffix(".py").replace("/", ".")).strip(".")
        test = "::".join([file, *filter(None, classes.split(".")), name])
        found[test] += float(case.attrib["time"])
        if case.find("failure") is not None or case.find("error") is not None:
            failed.add(test)
    return {test: seconds for test, seconds in found.items() if test not in failed}


def tests_of(where: Path, file: str, line: int) -> list[str]:
    """The tests that run a line, fastest first; of a line that is run at import, those that run most of its file."""
    from coverage.numbits import numbits_to_nums

    inside = file if file.startswith("sdescore/") else f"sdescore/{file}"
    with contextlib.closing(sqlite3.connect(where)) as connection:
        rows = connection.execute(
            "select context.context, line_bits.numbits from line_bits join file on file.id = line_bits.file_id "
            "join context on context.id = line_bits.context_id where file.path in (?, ?)",
            (inside, file),
        ).fetchall()
    seconds = seconds_of(where)
    lines: dict[str, set[int]] = defaultdict(set)
    for context, bits in rows:
        lines[context].update(numbits_to_nums(bits))
    at_import = lines.pop("", set())
    known = [test for test in lines if test in seconds]
    found = [test for test in known if line in lines[test]]
    if not found and line in at_import:
        found = sorted(known, key=lambda test: -len(lines[test]))[:20]
    fastest = sorted(found, key=lambda test: (seconds[test], len(lines[test])))
    within = sum(total <= ENOUGH for total in accumulate(seconds[test] for test in fastest))
    return fastest[: max(within, 1)]


def _run_tests(tree: Path, tests: list[str], output: Path) -> None:
    """Run tests in a copy of the tree, in this forked process."""
    import pytest

    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    sys.dont_write_bytecode = True
    sys.argv = ["pytest"]
    os.environ["PYTHONPATH"] = str(tree)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    code = int(pytest.main([*OPTIONS, "--tb=no", "-rfE", *tests]))
    sys.stdout.flush()
    os._exit(code)


def failed(tree: Path, tests: list[str]) -> str | None:
    """The first of the tests that fails in a copy of the tree; "time" if none comes to an end, and None if all pass."""
    output = tree / "output.txt"
    process = multiprocessing.get_context("fork").Process(target=_run_tests, args=(tree, tests, output))
    process.start()
    process.join(20 * LONGEST)
    if process.is_alive():
        process.kill()
        process.join()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, 9)  # what it started, and did not end
    if process.exitcode == 0:
        return None
    named = re.search(r"^(?:FAILED|ERROR) (\S+)", output.read_text(errors="replace"), re.M)
    return named[1] if named else "time" if (process.exitcode or 0) < 0 else "import"


def run(state: Path, where: Path, chosen: list[tuple[str, int]], minutes: float) -> None:
    """Try the mutants of a sample that are not in the state file yet."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import accelerate  # noqa: F401  what most tests need, once for all of them
    import torch

    torch.set_num_threads(1)
    done = {json.loads(line)["name"] for line in state.read_text().splitlines()} if state.exists() else set()
    until = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder))
        for name, line in chosen:
            if name in done or time.monotonic() > until:
                continue
            file = name.split(":")[0]
            tests = tests_of(where, file, line)
            content, before, after = changed(name)
            found = {"name": name, "line": line, "before": before, "after": after, "tests": tests}
            began = time.monotonic()
            if tests:
                whole = (tree / file).read_text()
                (tree / file).write_text(content)
                found["by"] = failed(tree, tests)
                (tree / file).write_text(whole)
            found["outcome"] = "not run by any test" if not tests else "noticed" if found["by"] else "survived"
            with open(state, "a") as out:
                out.write(json.dumps(found) + "\n")
            seconds = time.monotonic() - began
            print(f"{found['outcome']:20} {seconds:5.1f} s {file}:{line} {before[:60]} -> {after[:60]}", flush=True)


def report(state: Path) -> None:
    """The share of mutants that were noticed, and where the others are."""
    found = [json.loads(line) for line in state.read_text().splitlines()]
    counts = Counter(each["outcome"] for each in found)
    print(f"{len(found)} mutants: {', '.join(f'{n} {what}' for what, n in counts.most_common())}")
    for each in found:
        if each["outcome"] != "noticed":
            print(f"{each['outcome']}: {each['name']}, line {each['line']}: {each['before']} -> {each['after']}")


def main() -> None:
    own = [f"tests/{room.removeprefix('sdescore/')}" for room in ROOMS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", action="store_true", help="find which test runs which line")
    parser.add_argument("--report", action="store_true", help="say what was found")
    parser.add_argument("--tests", nargs="*", default=own, help="with --map, these tests; by default the rooms' own")
    parser.add_argument("--rooms", nargs="*", default=ROOMS, help="of the sample")
    parser.add_argument("--count", type=int, default=500, help="size of the sample")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--state", type=Path, default=Path("runs/mutants/state.jsonl"), help="where findings are kept")
    parser.add_argument("--lines", type=Path, default=Path("runs/mutants/coverage"), help="what --map writes")
    given = parser.parse_args()
    given.state.parent.mkdir(parents=True, exist_ok=True)
    if given.map:
        map_lines(given.lines, given.tests)
    elif given.report:
        report(given.state)
    else:
        run(given.state, given.lines, sampled(given.count, given.seed, given.rooms), given.minutes)


if __name__ == "__main__":
    main()
