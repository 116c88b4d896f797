"""What was asked for lately and may not be written yet: whoever names it next finds its way."""

from collections import OrderedDict
from typing import TypeVar

_Name = TypeVar("_Name")
_Known = TypeVar("_Known")


class Lately(OrderedDict[_Name, _Known]):
    """At most so many; what was noted longest ago goes first."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def note(self, name: _Name, known: _Known) -> None:
        """It counts as new, also where it was noted before."""
        self[name] = known
        self.move_to_end(name)
        if len(self) > self._most:
            self.popitem(last=False)
