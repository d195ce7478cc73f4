"""How tests run the code of a page: its Python and its files as they are written, its commands with little to do."""

import re
import shlex
from dataclasses import replace
from importlib.metadata import metadata
from pathlib import Path
from typing import NamedTuple

from sdescore.cli import main

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What is said after a command's own arguments, so that it takes seconds; what was said counts for everything else.
TRAIN = "--steps 2 --batch_size 8 --save_every 1 --sample_every 0 --tracker none --progress false"
LITTLE = {
    "train": TRAIN,
    "sample": "--count 40",
    "likelihood": "--count 2 --rtol 1e-1 --atol 1e-1",
    "fit": "--runs 4 --pilots 4",
    "average": "--limit 1",
}


class Block(NamedTuple):
    language: str
    title: str | None
    code: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for language, rest, code in FENCE.findall(page):
        title = re.search(r'title="([^"]+)"', rest)
        found.append(Block(language, title.group(1) if title else None, code))
    return found


def run_page(page: str, name: str) -> dict[str, object]:
    """Run all blocks of a page, one after another, in the current folder. What its Python names at the end."""
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        if block.title is not None:
            Path(block.title).write_text(block.code, "utf-8")
        elif block.language == "python":
            exec(compile(block.code, name, "exec"), names)
        elif block.language == "sh":
            for line in block.code.replace("\\\n", " ").splitlines():
                run_command(shlex.split(line, comments=True))
    return names


def run_command(words: list[str]) -> None:
    """Run a command `sdescore`, however it is launched; of others, look whether what they name is there."""
    if not words:
        return
    if "sdescore.cli" in words:  # started by accelerate or torchrun, which have tests of their own
        config = words.index("--config_file") if "--config_file" in words else None
        assert config is None or (ROOT / words[config + 1]).is_file()
        words = ["sdescore", *words[words.index("sdescore.cli") + 1 :]]
    program, *rest = words
    if program == "sdescore" and rest[0] == "demo":  # its samples and scores, a minute, are for `make wheel-test`
        from sdescore.cli.demo import DemoConfig
        from sdescore.training import train

        train(replace(DemoConfig(out=rest[rest.index("--out") + 1], steps=2).training(), progress=False))
    elif program == "sdescore":
        main([*rest, *LITTLE.get(rest[0], "").split(), *(["--steps", "3"] if "--resume" in rest else [])])
    elif program == "make":
        (target,) = rest
        makefile = (ROOT / "Makefile").read_text("utf-8")
        assert re.search(rf"^({target}|{target.partition('-')[0]}-%):", makefile, re.MULTILINE), target
    elif program == "pip":
        (package,) = rest[1:]
        extra = re.fullmatch(r"sdescore\[(\w+)\]", package)
        assert rest[0] == "install" and extra and extra.group(1) in metadata("sdescore").get_all("Provides-Extra", [])
    elif program == "python":
        assert (ROOT / rest[0]).is_file()
    else:
        raise AssertionError(f"a page says {shlex.join(words)!r}, which no test runs")
