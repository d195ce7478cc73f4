"""The command `sdescore`: what it lists, runs and says of itself."""

import re
import subprocess
import sys
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from scripting import Refusal

from sdescore.cli import COMMANDS, main


def test_help_lists_every_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--help"], ["-h"], []):
        main(given)
        said = capsys.readouterr().out
        assert all(re.search(rf"^  {name} +{text}$", said, re.MULTILINE) for name, text in COMMANDS.items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("samples", "sdescore: 'samples' is no command; did you mean 'sample'?"),
        ("trian", "did you mean 'train'?"),
        ("xyz", "expected train, sample, likelihood"),
    ],
)
def test_an_unknown_command_names_the_nearest(given: str, message: str, refusal: Refusal) -> None:
    assert message in refusal(given)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "solvers"])
def test_help_shows_commands_and_explains_every_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    said = capsys.readouterr().out
    assert f"    sdescore {name} --" in said
    flags = said.split("Settings of ")[1].split("\n  --")[1:]
    shortest = 3 if name == "train" else 4  # words, the flag and its value among them
    assert flags and all(len(re.split(r"\((?:required|type)", flag)[0].split()) > shortest for flag in flags)


@pytest.mark.parametrize("absent", [None, "torchode"])
def test_solvers_are_listed_with_what_they_are_for(
    absent: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those that need a package which is not installed."""
    if absent is not None:
        monkeypatch.setitem(sys.modules, absent, None)
    main(["solvers"])
    heading, _, *lines = capsys.readouterr().out.splitlines()
    assert [title.strip() for title in heading.strip("|").split("|")] == [
        *("name", "kind", "order", "net calls a step", "for", "paper", "link")
    ]
    cells = {name: rest for name, *rest in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}
    assert cells.keys() == {entry.name for entry in entry_points(group="sdescore.solvers")}
    assert cells["heun"][:3] == ["ODE", "2", "2"] and cells["heun"][4].startswith("Karras et al. 2022")
    assert cells["ddpm"][:3] == ["SDE", "1", "1"] and cells["dopri5"][2] == "–"
    for kind, _, _, use, paper, link in cells.values():
        assert kind in ("ODE", "SDE") and use and paper and link.startswith("https://")


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, refusal: Refusal) -> None:
    for name in [each for each in sys.modules if each.startswith("sdescore.cli.") or each.startswith("jsonargparse")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jsonargparse", None)  # as if it were not installed
    said = refusal("train", "--data", "digits")
    assert said == "sdescore train: jsonargparse is not installed; pip install 'sdescore[train]'"


def test_what_else_is_missing_is_no_matter_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sdescore.cli.average", raising=False)
    monkeypatch.setitem(sys.modules, "sdescore.training.posthoc_averages", None)
    with pytest.raises(ModuleNotFoundError, match="posthoc_averages"):
        main(["average"])


def test_it_runs_from_a_shell(tmp_path: Path) -> None:
    """Errors are one line on stderr, and the status says so."""
    command = [str(Path(sysconfig.get_path("scripts"), "sdescore")), "measure", "--data", "no.npz", "--out", "a.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "sdescore measure: there is no file 'no.npz'\n"
