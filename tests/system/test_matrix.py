"""Who may do what: every operation × every role × one's own, another's and a missing object."""

from collections.abc import Iterator
from typing import Any

import pytest

from palyra_actors.keys import KeyFolder
from palyra_actors.wire.operations import BODIES
from tests.figures import Tell
from tests.system.harness import DEADLINE_S, House, Wire, house
from tests.system.matrix import ROWS, Followed, Listed, Named, Row, Shared, Swept, Things

PRINCIPALS = {"reader": "reed", "writer": "walt", "admin": "ada"}
OTHER = "olga"
MAY = {"reader": ("reader", "writer", "admin"), "writer": ("writer", "admin")}

CASES = [
    pytest.param(op, row, role, id=f"{op}-{number}-{role}")
    for op in BODIES
    for number, row in enumerate(ROWS.get(op, []))
    for role in PRINCIPALS
]


@pytest.fixture(scope="module")
def house_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("matrix")
    keys = KeyFolder(folder / "keys")
    keys.new("reed", "reader")
    keys.new("walt", "writer")
    keys.new("ada", "admin")
    with house(folder, keys=keys.path) as opened:
        yield opened


@pytest.fixture(scope="module")
def admin(house_of_all: House) -> Wire:
    return house_of_all.connect_as("ada")


def test_every_operation_has_a_row() -> None:
    missing = sorted(set(BODIES) - set(ROWS))
    assert not missing, (
        f"{', '.join(missing)}: say in ROWS of tests/system/matrix.py how the body names its object"
        " (Named), what it lists (Listed) or that it belongs to nobody (Shared), and which role it"
        " takes; `roles` of the body says so to the engine"
    )


@pytest.mark.parametrize(("op", "row", "role"), CASES)
def test_each_role_may_what_it_may_with_each_ones_things(
    house_of_all: House, admin: Wire, op: str, row: Row, role: str, *, figure: Tell
) -> None:
    me = PRINCIPALS[role]
    with Visit(house_of_all, me) as visit:
        if role not in MAY[row.role]:
            _is_denied(visit, admin, op, row, me)
            figure(24, "operations that a role may not, all denied alike", 1)
            return
        match row:
            case Named():
                _is_its_own(visit, admin, op, row, me)
            case Listed():
                _shows_its_own(visit, admin, op, row, me)
            case Followed():
                _follows_its_own(visit, admin, op, row, me)
            case Swept():
                _sweeps_its_own(visit, admin, op, row, me)
            case Shared(body=body, answer=answer):
                assert _said(visit.ask(op, body)) == answer
    figure(24, "operations by role, each asked about its own, another's and a missing one", 1)


class Visit:
    """A connection of one principal, for one case."""

    def __init__(self, opened: House, name: str) -> None:
        self._wire = opened.connect_as(name)
        self._opened = opened

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened._wires.remove(self._wire)
        self._wire.close()

    def ask(self, op: str, body: Any) -> dict[str, Any]:
        """The first answer: of a stream that is not ended yet, its first item."""
        return self._wire.call(op, body)

    def send(self, op: str, body: Any) -> int:
        return int(self._wire.send(op, body))

    def events_until(self, sub: int) -> set[int]:
        """Which subscriptions sent something else than a head until this one did."""
        heard = set()
        while sub not in heard:
            reply = self._wire.receive()
            if "head" not in reply["item"]:
                heard.add(reply["id"])
        return heard

    def hear(self, op: str, body: Any, wanted: list[str]) -> str:
        """All that comes, as text, until the request is ended or all that is wanted was said."""
        said = str(self._wire.call(op, body))
        while "'item'" in said and not all(one in said for one in wanted):
            said += str(self._wire.receive(DEADLINE_S))
            if "'ok':" in said or "'err':" in said:
                break
        return said


def _said(reply: dict[str, Any]) -> str:
    """`ok`, or the code of the error."""
    return str(reply["err"]["code"]) if "err" in reply else "ok"


def _is_denied(visit: Visit, admin: Wire, op: str, row: Row, me: str) -> None:
    """The role is not enough: the same answer whatever it is about, and nothing happens."""
    if isinstance(row, Named | Followed | Swept):
        bodies = [row.body(Things(admin, owner)) for owner in (me, OTHER, None)]
    else:
        bodies = [row.body]
    head = admin.head()
    answers = [visit.ask(op, body) for body in bodies]
    assert {_said(answer) for answer in answers} == {"denied"}
    assert all(answer["err"] == answers[0]["err"] for answer in answers)
    assert admin.head() == head


def _is_its_own(visit: Visit, admin: Wire, op: str, row: Named, me: str) -> None:
    own, other, missing = (row.body(Things(admin, owner)) for owner in (me, OTHER, None))
    if me == PRINCIPALS["admin"]:
        answers = [_said(visit.ask(op, body)) for body in (own, other, missing)]
        assert answers == [row.own, row.others or row.own, row.missing]
        return
    head = admin.head()
    others = visit.ask(op, other)
    assert _said(others) == "not_found"
    if row.missing == "not_found":
        assert visit.ask(op, missing)["err"] == others["err"]
    assert admin.head() == head
    if row.missing != "not_found":
        assert _said(visit.ask(op, missing)) == row.missing
    assert _said(visit.ask(op, own)) == row.own


def _shows_its_own(visit: Visit, admin: Wire, op: str, row: Listed, me: str) -> None:
    things = [Things(admin, owner) for owner in (OTHER, me)]
    others, own = (str(row.make(one)) for one in things)
    sees_all = me == PRINCIPALS["admin"]
    said = visit.hear(op, row.body, [others, own] if sees_all else [own])
    assert own in said
    assert (others in said) is sees_all
    if not sees_all:
        assert not any(one in said for one in [*things[0].ids, OTHER])


def _follows_its_own(visit: Visit, admin: Wire, op: str, row: Followed, me: str) -> None:
    """What comes of another's comes before what comes of one's own, or does not come."""
    things = [Things(admin, owner) for owner in (OTHER, None, me)]
    subs = [visit.send(op, row.body(one)) for one in things]
    heard = visit.events_until(subs[-1])
    for one in things:
        one.touch()
    heard |= visit.events_until(subs[-1])
    assert heard == ({subs[0], subs[2]} if me == PRINCIPALS["admin"] else {subs[2]})


def _sweeps_its_own(visit: Visit, admin: Wire, op: str, row: Swept, me: str) -> None:
    bodies = [row.body(Things(admin, owner)) for owner in (OTHER, None, me)]
    swept = [visit.ask(op, body)["ok"][row.count] for body in bodies]
    assert swept == [0, 0, 1], "an admin sweeps before its own door, too"
