"""Tableaux of exponential Runge-Kutta methods, named after the classic methods whose nodes they have."""

from dataclasses import dataclass, field

__all__ = ["HEUN", "HEUN3", "KUTTA4", "MIDPOINT", "RALSTON", "Tableau"]


@dataclass(frozen=True)
class Tableau:
    """A tableau whose weights are exact integrals of polynomials.

    c are the nodes' shares of the step, the first 0. Each row, of the later nodes and then of the end, interpolates the
    nodes whose entry is not 0; an entry multiplies that node's weight, and those of one node met twice add up to 1.
    Where the measure is uniform the weights are Butcher's: (1, 0.5, 0.5, 1) over (0, 1/2, 1/2, 1) is Simpson's rule.
    Orders up to 3 hold in every spacing; KUTTA4 has order 4 in the measure alone, elsewhere 3.
    """

    name: str
    c: tuple[float, ...] = field(repr=False)
    rows: tuple[tuple[float, ...], ...] = field(repr=False)

    def __post_init__(self) -> None:
        sizes = [len(row) for row in self.rows]
        starts_at_0 = self.c[:1] == (0.0,) and max(self.c) <= 1
        if not starts_at_0 or sizes != list(range(1, len(self.c) + 1)) or not all(map(any, self.rows)):
            raise ValueError(
                f"c={self.c}, rows={self.rows}; expected c in [0, 1] from 0 on, and row i with i + 1 entries"
            )


HEUN = Tableau("heun", (0.0, 1.0), ((1,), (1, 1)))
MIDPOINT = Tableau("midpoint", (0.0, 1 / 2), ((1,), (0, 1)))
RALSTON = Tableau("ralston", (0.0, 3 / 4), ((1,), (1, 1)))
HEUN3 = Tableau("heun3", (0.0, 1 / 3, 2 / 3), ((1,), (1, 1), (1, 0, 1)))
KUTTA4 = Tableau("kutta4", (0.0, 1 / 2, 1 / 2, 1.0), ((1,), (0, 1), (0, 0, 1), (1, 1 / 2, 1 / 2, 1)))
