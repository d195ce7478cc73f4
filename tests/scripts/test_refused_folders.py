"""Folders that cannot be written to: commands and scripts name them in one line, before the work."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripting import NEEDS_SCRIPTS

from sdescore.cli import main

# Where each is to write, and what else it must be told.
COMMANDS: dict[str, tuple[str, list[str]]] = {
    "evaluate": ("out", ["--samples", "digits:train"]),
    "measure": ("out/data.json", ["--data", "digits:train"]),
    "average": ("out/model", ["--run", "nowhere", "--width", "0.1"]),
}
EXPERIMENTS = ("animation", "cir", "forecast", "low_density", "manifold", "objectives", "one_net", "weights")


Check = Callable[[str, Any], None]


@pytest.fixture(params=["a file", "read only"])
def says_so(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Checks what a program says that is to write to tmp_path / "out"."""
    out = tmp_path / "out"

    def denied(dir: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir / "tmp"))

    if request.param == "a file":
        out.write_text("mine")
    else:
        monkeypatch.setattr("sdescore.cli.outputs.TemporaryFile", denied)
        monkeypatch.setattr("filelock.FileLock.acquire", lambda self, **_: denied(out))

    def check(program: str, run: Callable[[], None]) -> None:
        with pytest.raises(SystemExit) as caught:
            run()
        message = str(caught.value.code)
        assert message.startswith(f"{program}: [Errno ") and str(out) in message and "\n" not in message
        if request.param == "a file":
            assert out.read_text() == "mine"
        else:
            assert "nothing can be written to" in message and "Permission denied" in message

    return check


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name: str, says_so: Check, tmp_path: Path) -> None:
    written, arguments = COMMANDS[name]
    says_so(f"sdescore {name}", lambda: main([name, "--out", str(tmp_path / written), *arguments]))


@NEEDS_SCRIPTS
class TestScripts:
    @pytest.mark.parametrize("name", EXPERIMENTS)
    def test_experiments(
        self,
        name: str,
        says_so: Check,
        script: Callable[[str], Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        module = script(f"experiments.{name}")
        monkeypatch.setattr("sys.argv", [f"{name}.py", "--out", str(tmp_path / "out")])
        says_so(f"{name}.py", lambda: module.start(module.main))

    def test_interpolate(self, says_so: Check, script: Callable[[str], Any], tmp_path: Path) -> None:
        arguments = ["--model", "nowhere", "--out", str(tmp_path / "out/rows.png")]
        says_so("interpolate.py", lambda: script("interpolate").main(arguments))
