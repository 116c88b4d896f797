"""What a memory scope has decided and not written yet, held against a plain list of events."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from palyra_actors.actors.memory import _ABSENT, Notes

NAMES = [b"a", b"b", b"c"]


class NotesMachine(RuleBasedStateMachine):
    """Events are numbered; some are written, from the first on, and the last may be taken back."""

    def __init__(self) -> None:
        super().__init__()
        self.notes = Notes()
        self.events: list[tuple[bytes, int | None]] = []
        self.written = 0

    @rule(name=st.sampled_from(NAMES), value=st.none() | st.integers(0, 9))
    def decide(self, name: bytes, value: int | None) -> None:
        self.events.append((name, value))
        self.notes.put(len(self.events), name, value)

    @rule(count=st.integers(0, 3))
    def write(self, count: int) -> None:
        self.written = min(len(self.events), self.written + count)
        self.notes.written(self.written)

    @rule(count=st.integers(0, 4))
    def send_back(self, count: int) -> None:
        number = max(self.written, len(self.events) - count)
        del self.events[number:]
        self.notes.go_back(number)

    @invariant()
    def the_last_unwritten_event_of_each_name_is_noted(self) -> None:
        for name in NAMES:
            said = [value for one, value in self.events[self.written :] if one == name]
            noted = self.notes.get(name)
            if said:
                assert noted == said[-1]
            else:
                assert noted is _ABSENT


NotesMachine.TestCase.settings = settings(max_examples=200, deadline=None)
test_notes_say_what_the_unwritten_events_say = NotesMachine.TestCase
