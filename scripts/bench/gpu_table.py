"""The table of bench/gpu.py: one JSON and one Markdown file, each whole after every figure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdescore.cli.outputs import write_json, write_whole
from sdescore.cli.tables import markdown
from sdescore.common.files import read_json

__all__ = ["GOALS", "Goal", "Table"]

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    """A ratio of figures, and what it should be at least or at most."""

    step: str
    name: str
    value: Callable[[list[dict[str, Any]]], float | None]
    least: float | None = None
    most: float | None = None

    def row(self, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Its line of the table; None while figures are missing."""
        value = self.value([row for row in rows if row["step"] == self.step and row["done"]])
        if value is None:
            return None
        if self.least is None and self.most is None:
            return {"step": self.step, "what": self.name, "figures": shown(value), "goal": None, "reached": None}
        reached = (self.least is None or value >= self.least) and (self.most is None or value <= self.most)
        goal = f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"
        kept = {"goal": goal, "reached": "yes" if reached else "no"}
        return {"step": self.step, "what": self.name, "figures": shown(value), **kept}


def extreme(key: str, start: str, choose: Callable[..., float] = max) -> Callable[[list[dict[str, Any]]], float | None]:
    """The best figure of a name among rows whose names begin with something."""

    def found(rows: list[dict[str, Any]]) -> float | None:
        values = [row["figures"][key] for row in rows if row["name"].startswith(start) and key in row["figures"]]
        return choose(values) if values else None

    return found


def ratio(key: str, ours: str, theirs: str) -> Callable[[list[dict[str, Any]]], float | None]:
    """Our best over their best."""

    def found(rows: list[dict[str, Any]]) -> float | None:
        one, other = extreme(key, ours)(rows), extreme(key, theirs)(rows)
        return one / other if one and other else None

    return found


GOALS = [
    Goal("tests", "tests that failed", extreme("failed", "pytest"), most=0),
    Goal("train", "images/s ÷ diffusers' best", ratio("images/s", "sdescore", "diffusers"), least=1.3),
    Goal("train", "share of the matrix rate", extreme("of the matrix rate", "sdescore"), least=0.45),
    Goal("sample", "least share of time outside the net", extreme("outside the net", "sdescore", min), most=0.02),
    Goal("sample", "images/s ÷ diffusers' best", ratio("images/s", "sdescore", "diffusers")),
    Goal("likelihood", "images/s ÷ dopri5's at 1e-3", ratio("images/s", "ours, 0.001", "torchdiffeq, t, 0.001")),
    Goal("likelihood", "images/s ÷ dopri5's at 1e-5", ratio("images/s", "ours, 1e-05", "torchdiffeq, t, 1e-05")),
]


def shown(value: Any) -> str:
    """A number to three digits, or whole if it is larger."""
    return str(value) if not isinstance(value, float) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


class Table:
    """Figures by step and name. Raises ValueError for a folder with those of another machine, version or commit."""

    def __init__(self, out: Path, machine: Figures) -> None:
        self.out = out
        self.path = out / "results.json"
        self.content: dict[str, Any] = {"machine": dict(machine), "finished": [], "rows": []}
        if self.path.exists():
            self.content = read_json(self.path)
            differing = [key for key, value in machine.items() if self.content["machine"].get(key) != value]
            if differing:
                raise ValueError(f"{self.path} is of another {', '.join(differing)}; expected a new folder")

    def done(self, step: str) -> set[str]:
        """The names of what a step has measured; what failed or was cut off is measured again."""
        return {row["name"] for row in self.content["rows"] if row["step"] == step and row["done"]}

    @property
    def finished(self) -> list[str]:
        """The steps that came to their end without a failure."""
        found: list[str] = self.content["finished"]
        return found

    def add(self, step: str, name: str, figures: Figures, done: bool = True) -> None:
        """Keep figures, in place of earlier ones of that name; they are on disk when this returns."""
        rows = self.content["rows"]
        row = {"step": step, "name": name, "done": done, "figures": dict(figures)}
        at = next((i for i, old in enumerate(rows) if (old["step"], old["name"]) == (step, name)), len(rows))
        rows[at : at + 1] = [row]
        self.write()

    def finish(self, step: str) -> None:
        """Note that a step has come to its end."""
        self.content["finished"].append(step)
        self.write()

    def write(self) -> None:
        """Both files, each whole or as it was."""
        write_json(self.path, self.content)
        write_whole(self.out / "table.md", self.markdown() + "\n")

    def markdown(self) -> str:
        """The machine in words, and the table."""
        rows = self.content["rows"]
        goals = [goal.row(rows) for goal in GOALS]
        lines = []
        for step in dict.fromkeys(row["step"] for row in rows):
            for row in rows:
                if row["step"] == step:
                    figures = "; ".join(f"{key} {shown(value)}" for key, value in row["figures"].items())
                    what = row["name"] + ("" if row["done"] else " (not finished)")
                    lines.append({"step": step, "what": what, "figures": figures, "goal": None, "reached": None})
            lines += [goal for goal in goals if goal and goal["step"] == step]
        machine = ", ".join(f"{key} {value}" for key, value in self.content["machine"].items())
        text = ("step", "what", "figures", "goal", "reached")
        return f"{machine}; finished: {', '.join(self.finished) or 'nothing yet'}\n\n" + (
            markdown(lines, text) if lines else "no figures yet"
        )
