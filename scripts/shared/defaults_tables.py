"""The tables of the benchmark of defaults, from its rows."""

import statistics
from collections.abc import Sequence
from typing import Any

from shared.small_sets import VECTORS

from sdescore.cli.tables import markdown

__all__ = ["FRESH", "best_of", "tables"]

OTHERS = ("default", "training data", "diffusers", "lucidrains")
FRESH = 10  # the first of the seeds on which the best setting is run again

Row = dict[str, Any]


def best_of(rows: Sequence[Row], minutes: float) -> str | None:
    """The best setting of one set by its first seed: by distance, for vectors by held-out nats."""
    own = [r for r in rows if r["minutes"] == minutes and r["seed"] == 0 and r["setting"] not in OTHERS]
    if not own:
        return None
    best = min(own, key=lambda r: -r["log_prob"] if r["set"] in VECTORS else r["frechet"])
    return str(best["setting"])


def mean(rows: Sequence[Row], key: str) -> str:
    """A mean over seeds with two standard errors, – without rows."""
    values = [row[key] for row in rows if key in row]
    if not values:
        return "–"
    text = f"{statistics.mean(values):.4g}"
    if len(values) == 1:
        return text
    return f"{text} ± {2 * statistics.stdev(values) / len(values) ** 0.5:.2g}"


def tables(rows: Sequence[Row]) -> str:
    """Distances, held-out bits or nats, and every setting beside the default, in Markdown."""
    runs: dict[str, list[Row]] = {}
    for row in rows:
        runs.setdefault(f"{row['set']}, {row['minutes']:g} min", []).append(row)
    parts = []
    for title, key, skipped in (
        ("Fréchet distance to held-out data", "frechet", ()),
        ("Held-out log-probability: nats, or minus bits a dimension", "log_prob", ("training data",)),
    ):
        lines = []
        for name, own in runs.items():
            best, groups = grouped(own)
            cells = {title: mean(each, key) for title, each in groups.items() if title not in skipped}
            lines.append({"set": name, "steps": max(row.get("steps", 0) for row in own), "best is": best, **cells})
        parts.append(f"{title}\n\n{markdown(lines, ['best is'])}")
    first = {name: {row["setting"]: row for row in own if row["seed"] == 0} for name, own in runs.items()}
    settings = dict.fromkeys(name for own in first.values() for name in own if name not in ("default", "training data"))
    beside = [
        {"setting": setting, **{name: compared(own, setting) for name, own in first.items()}} for setting in settings
    ]
    if beside:
        parts.append(f"First seed: distance ÷ the default's (gain of log-probability)\n\n{markdown(beside)}")
    return "\n\n".join(parts)


def grouped(own: Sequence[Row]) -> tuple[str, dict[str, list[Row]]]:
    """The name of a set's best setting, and its rows by column."""
    best = best_of(own, own[0]["minutes"]) or "–"

    def of(setting: str) -> list[Row]:
        return [row for row in own if row["setting"] == setting]

    return best, {
        "training data": of("training data"),
        "default": of("default"),
        "best": [row for row in of(best) if row["seed"] < FRESH],
        "best, fresh seeds": [row for row in of(best) if row["seed"] >= FRESH],
        "diffusers": of("diffusers"),
        "lucidrains": of("lucidrains"),
    }


def compared(own: dict[str, Row], setting: str) -> str:
    """A setting beside the default."""
    if not {setting, "default"} <= own.keys():
        return "–"
    one, default = own[setting], own["default"]
    return f"{one['frechet'] / default['frechet']:.2f} ({one['log_prob'] - default['log_prob']:+.3g})"
