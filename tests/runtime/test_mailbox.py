"""A bounded inbox that asks for one turn at a time."""

from collections.abc import Callable

import pytest
from pykka._envelope import Envelope

from palyra_actors.runtime.mailbox import Mailbox, MailboxFull


class Turns:
    """Counts what a mailbox asks of its dispatcher."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.asked = 0
        mailbox.hand_over = self._asked

    def _asked(self) -> None:
        self.asked += 1


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox(messages_max=3)


@pytest.fixture
def turns(mailbox: Mailbox) -> Turns:
    return Turns(mailbox)


def _put(mailbox: Mailbox, *messages: object) -> None:
    for message in messages:
        mailbox.put(Envelope(message))


def _take_all(mailbox: Mailbox) -> list[object]:
    return [mailbox.get().message for _ in range(mailbox.due)]


def test_messages_come_out_in_the_order_they_went_in(mailbox: Mailbox, turns: Turns) -> None:
    _put(mailbox, 1, 2, 3)
    assert _take_all(mailbox) == [1, 2, 3]
    assert mailbox.empty()


def test_one_message_too_many_is_refused_and_the_others_stay(
    mailbox: Mailbox, turns: Turns
) -> None:
    _put(mailbox, 1, 2, 3)
    with pytest.raises(MailboxFull):
        _put(mailbox, 4)
    assert len(mailbox) == 3
    assert _take_all(mailbox) == [1, 2, 3]
    _put(mailbox, 5)
    assert len(mailbox) == 1


def test_a_turn_is_asked_for_once_until_it_ends(mailbox: Mailbox, turns: Turns) -> None:
    _put(mailbox, 1, 2)
    assert turns.asked == 1
    _take_all(mailbox)
    _put(mailbox, 3)
    assert turns.asked == 1
    mailbox.end_turn()
    assert turns.asked == 2


def test_a_turn_that_leaves_nothing_asks_for_no_other(mailbox: Mailbox, turns: Turns) -> None:
    _put(mailbox, 1)
    _take_all(mailbox)
    mailbox.end_turn()
    assert turns.asked == 1
    _put(mailbox, 2)
    assert turns.asked == 2


def test_what_comes_before_the_start_waits_for_it(mailbox: Mailbox) -> None:
    _put(mailbox, 1, 2)
    turns = Turns(mailbox)
    mailbox.open_turns()
    assert turns.asked == 1
    assert _take_all(mailbox) == [1, 2]


def test_a_held_mailbox_gives_no_turns(mailbox: Mailbox, turns: Turns) -> None:
    _put(mailbox, 1)
    _take_all(mailbox)
    mailbox.hold()
    mailbox.end_turn()
    _put(mailbox, 2, 3)
    assert (turns.asked, mailbox.due, len(mailbox)) == (1, 0, 2)
    mailbox.release()
    assert turns.asked == 2
    assert _take_all(mailbox) == [2, 3]


def test_a_release_where_nothing_waits_asks_for_no_turn(mailbox: Mailbox, turns: Turns) -> None:
    mailbox.hold()
    mailbox.release()
    assert turns.asked == 0


def test_what_is_put_back_is_next_again(mailbox: Mailbox, turns: Turns) -> None:
    _put(mailbox, 1, 2, 3)
    first = mailbox.get().message
    mailbox.put_back(first)
    assert _take_all(mailbox) == [1, 2, 3]


@pytest.mark.parametrize(
    "occupy",
    [
        lambda mailbox: _put(mailbox, 1),
        lambda mailbox: mailbox.hold(),
        lambda mailbox: mailbox.take_turn_if_free(),
    ],
    ids=["a message waits", "held", "a turn is taken"],
)
def test_a_turn_without_a_message_is_given_only_where_nothing_is_before_it(
    mailbox: Mailbox, turns: Turns, occupy: Callable[[Mailbox], object]
) -> None:
    assert mailbox.take_turn_if_free()
    mailbox.end_turn()
    occupy(mailbox)
    assert not mailbox.take_turn_if_free()
