"""The design's one direction for rooms, read from the sources as they are installed."""

import subprocess
import sys
from pathlib import Path

import pytest
from import_rules import (
    COMPUTED,
    OUTSIDE,
    Graph,
    Import,
    backward,
    computed,
    cycle,
    foreign,
    from_root,
    long_files,
    outward,
    read_graph,
    read_imports,
    room,
    unranked,
)

import sdescore
import sdescore.nets
import sdescore.solvers

CORE, SOLVERS, NETS = (Path(str(package.__file__)).parent for package in (sdescore, sdescore.solvers, sdescore.nets))
TESTS = Path(__file__).parents[1]


def loaded(code: str, names: set[str]) -> set[str]:
    """Which of some packages a fresh process has loaded once it has run the code."""
    code = f"import sys; {code}; print(*sys.modules)"
    return names.intersection(subprocess.check_output([sys.executable, "-c", code], text=True).split())


@pytest.fixture(scope="module")
def core() -> Graph:
    return read_graph(CORE)


class TestReader:
    def test_sees_every_form_of_import(self) -> None:
        source = """
import torch, sdescore.data.idx as idx
import sdescore.nets
from .adams import Adams
from . import heun
from .. import processes
from ..common.files import refused
if TYPE_CHECKING:
    from sdescore.cli import main
def late():
    from sdescore import solvers
    import importlib
    importlib.import_module("sdescore.training")
    importlib.import_module(".later", "sdescore.mcmc")
    __import__("sdescore.testing")
    pkgutil.resolve_name("sdescore.density:likelihood")
"""
        absolute = {
            *("torch", "sdescore", "sdescore.nets", "sdescore.data.idx", "sdescore.cli.main", "sdescore.solvers"),
            *("importlib", "sdescore.training", "sdescore.mcmc.later", "sdescore.testing", "sdescore.density"),
        }
        relative = {
            *("sdescore.sampling.adams.Adams", "sdescore.sampling.heun", "sdescore.processes"),
            "sdescore.common.files.refused",
        }
        found = set(read_imports(source, "sdescore.sampling"))
        assert found == {Import(name) for name in absolute} | {Import(name, relative=True) for name in relative}

    @pytest.mark.parametrize(
        "source",
        [
            "importlib.import_module(name)",
            "importlib.import_module(f'sdescore.{name}')",
            "importlib.import_module('.solvers', package)",
            "importlib.import_module(name='sdescore.solvers')",
            "__import__('sdescore.' + name)",
            "load = importlib.import_module\nload('sdescore.solvers')",
            "from importlib import import_module as load\nload(name)",
            "map(__import__, names)",
        ],
    )
    def test_sees_names_that_are_computed(self, source: str) -> None:
        assert Import(COMPUTED) in list(read_imports(source))

    def test_tells_modules_from_packages(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "__init__.py").write_text("from .mcmc import langevin")
        (tmp_path / "data" / "__init__.py").write_text("from . import idx")
        (tmp_path / "data" / "idx.py").write_text("from .. import mcmc")
        assert read_graph(tmp_path) == {
            "sdescore": {"sdescore.mcmc.langevin"},
            "sdescore.data": {"sdescore.data.idx"},
            "sdescore.data.idx": {"sdescore.mcmc"},
        }


class TestRulesCanBeBroken:
    GRAPH: Graph = {  # noqa: RUF012
        "sdescore": {"sdescore.cli.main", "sdescore.training.train"},
        "sdescore.common.files": {"sdescore.processes.base"},
        "sdescore.sampling.sample": {"sdescore.objectives", "sdescore.solvers.Heun", "sdescore.common", "torch"},
        "sdescore.mcmc": {"sdescore.sampling.noise.Noise", "sdescore.nets", "sdescore.langevin"},
        "sdescore.testing": {"sdescore.training.train", "sdescore.mcmc.langevin", "sdescore"},
    }

    def test_direction(self) -> None:
        assert backward(self.GRAPH) == [
            ("sdescore.common.files", "sdescore.processes.base"),
            ("sdescore.sampling.sample", "sdescore.objectives"),
            ("sdescore.testing", "sdescore.training.train"),
        ]

    def test_solvers_and_nets_by_entry_points(self) -> None:
        assert outward({**self.GRAPH, "sdescore": {"sdescore.nets.MLP"}}) == [
            ("sdescore", "sdescore.nets.MLP"),
            ("sdescore.sampling.sample", "sdescore.solvers.Heun"),
            ("sdescore.mcmc", "sdescore.nets"),
        ]

    def test_nothing_leans_on_the_root(self) -> None:
        assert from_root(self.GRAPH) == [("sdescore.mcmc", "sdescore.langevin"), ("sdescore.testing", "sdescore")]

    def test_names_are_written_out(self) -> None:
        free = {"sdescore.cli": {COMPUTED}, "sdescore.cli.main": {COMPUTED}, "sdescore.common.plugins": {COMPUTED}}
        assert computed({**free, "sdescore.data.load": {"torch", COMPUTED}}) == ["sdescore.data.load"]

    def test_no_circles(self) -> None:
        room = {"sdescore.data": {"sdescore.data.load.load"}, "sdescore.data.load": {"sdescore.data.idx", "torch"}}
        assert cycle({**room, "sdescore.data.idx": {"sdescore.common.files.refused"}}) == []
        through_a_file = cycle({**room, "sdescore.data.idx": {"sdescore.data.load.size"}})
        assert set(through_a_file) == {"sdescore.data.load", "sdescore.data.idx"}
        through_the_index = cycle({**room, "sdescore.data.idx": {"sdescore.data.size"}})
        assert set(through_the_index) == {*room, "sdescore.data.idx"}

    def test_root_holds_rooms_alone(self) -> None:
        names = ["__init__.py", "py.typed", "cli", "mcmc.py", "helpers.py", "util"]
        assert unranked(names) == ["helpers.py", "util"]

    def test_files_are_short(self) -> None:
        assert long_files({"short.py": 300, "long.py": 301}) == ["long.py"]

    def test_siblings(self) -> None:
        right = "from .adams import Adams\nfrom . import adams\nfrom sdescore.sampling import sample\nimport torch\n"
        wrong = (
            "from .. import nets\nfrom ..sampling import Noise\nfrom . import Heun\n"
            "import solvers.adams as adams\nfrom sdescore.solvers import Heun\nimport sdescore.nets as nets\n"
        )
        assert foreign(right, "sdescore.solvers", {"adams"}) == []
        assert foreign(right + wrong, "sdescore.solvers", {"adams"}) == [
            *("sdescore.nets", "sdescore.sampling.Noise", "sdescore.solvers.Heun"),
            *("solvers.adams", "sdescore.solvers.Heun", "sdescore.nets"),
        ]

    def test_what_a_process_loads(self) -> None:
        assert loaded("import colorsys", {"colorsys", "torchsde"}) == {"colorsys"}


def test_every_room_is_read(core: Graph) -> None:
    rooms = {"common", "processes", "denoisers", "sampling", "objectives", "density", "mcmc", "data", "evaluation"}
    assert {room(module) for module in core} >= {"root", *rooms, "testing", "training"}


def test_rooms_import_in_one_direction(core: Graph) -> None:
    assert backward(core) == []


def test_core_imports_neither_solvers_nor_nets(core: Graph) -> None:
    assert outward(core) == []


def test_no_room_imports_from_the_root(core: Graph) -> None:
    assert from_root(core) == []


def test_names_of_modules_are_written_out(core: Graph) -> None:
    assert computed(core) == []


def test_no_imports_in_a_circle(core: Graph) -> None:
    assert cycle(core) == []


def test_root_holds_rooms_alone() -> None:
    paths = [path for path in CORE.iterdir() if path.name != "__pycache__"]
    assert unranked([path.name for path in paths]) == []
    assert sum(path.is_file() for path in paths) <= 8


@pytest.mark.parametrize("folder", [CORE, SOLVERS, NETS, TESTS], ids=["core", *OUTSIDE, "tests"])
def test_files_are_short(folder: Path) -> None:
    lines = {str(path): path.read_text("utf-8").count("\n") for path in folder.rglob("*.py")}
    assert lines and long_files(lines) == []


@pytest.mark.parametrize("folder", [SOLVERS, NETS], ids=OUTSIDE)
def test_siblings_are_imported_relatively_and_the_core_absolutely(folder: Path) -> None:
    package = f"sdescore.{OUTSIDE[folder == NETS]}"
    sources = {path.stem: path.read_text("utf-8") for path in folder.glob("*.py")}
    assert len(sources) > 1
    wrong = {name: foreign(source, package, set(sources)) for name, source in sources.items()}
    assert {name: targets for name, targets in wrong.items() if targets} == {}


def test_imports_are_light() -> None:
    """The core is loaded on the way; a library when a solver or a command that needs it runs."""
    heavy = {"torchsde", "torchdiffeq", "torchode", "huggingface_hub", "accelerate", "matplotlib"}
    assert loaded("import sdescore.solvers, sdescore.nets", heavy) == set()
