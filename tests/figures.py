"""Figures that tests tell of: what was found or measured, beside the promise that it is of.

def test_…(figure: Tell) -> None:
    figure(1, "acknowledged and lost", lost, most=0)

`python -m tests.promises` gathers them. A count is added up over all tests that tell of it; what
has a unit is a measure, and the worst one counts. `most` and `least` are the promise's own words,
or the control's: the test does not assert a time, the gathering holds it to its bound.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

PROPERTY: Final = "figure"


@dataclass(frozen=True, slots=True)
class Figure:
    """`unit` is empty for counts. `most` and `least`: where it has to lie."""

    promise: int
    name: str
    value: float
    unit: str = ""
    most: float | None = None
    least: float | None = None

    @property
    def holds(self) -> bool:
        return (self.most is None or self.value <= self.most) and (
            self.least is None or self.value >= self.least
        )

    def joined(self, other: "Figure") -> "Figure":
        """Both in one: counts are added, of measures the worst is kept."""
        if not self.unit:
            value = self.value + other.value
        elif self.least is not None:
            value = min(self.value, other.value)
        else:
            value = max(self.value, other.value)
        return Figure(self.promise, self.name, value, self.unit, self.most, self.least)

    def __str__(self) -> str:
        bound = ""
        if self.unit and self.most is not None:
            bound = f" (at most {self.most:g})"
        elif self.unit and self.least is not None:
            bound = f" (at least {self.least:g})"
        value = f"{self.value:,.0f}" if self.value == int(self.value) else f"{self.value:.3g}"
        return f"{self.name}: {value}{self.unit and ' ' + self.unit}{bound}"


class Tell:
    """Tells of a figure of a promise: it is kept where pytest keeps a test's properties."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record

    def __call__(
        self,
        promise: int,
        name: str,
        value: float,
        unit: str = "",
        *,
        most: float | None = None,
        least: float | None = None,
    ) -> None:
        self._record(PROPERTY, asdict(Figure(promise, name, value, unit, most, least)))


def told(properties: Iterable[tuple[str, Any]]) -> list[Figure]:
    """The figures among a test's properties."""
    return [Figure(**value) for name, value in properties if name == PROPERTY]


def gathered(figures: Iterable[Figure]) -> dict[int, list[Figure]]:
    """By promise, each name once, in the order in which they were first told."""
    found: dict[tuple[int, str], Figure] = {}
    for one in figures:
        key = (one.promise, one.name)
        found[key] = found[key].joined(one) if key in found else one
    by_promise: dict[int, list[Figure]] = {}
    for one in found.values():
        by_promise.setdefault(one.promise, []).append(one)
    return by_promise
