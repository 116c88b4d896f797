"""`Canvas.edit` and `Canvas.patch`, as one who knows Python calls them."""

from collections.abc import Iterator
from typing import Any

import pytest

from palyra_actors.api.canvases import EDIT_AGAIN_MS_MAX, EDITS_MAX, Canvas
from palyra_actors.api.events import new_id
from palyra_actors.client import Client
from palyra_actors.errors import Conflict, IdReused, Invalid
from tests.system.harness import House

STATE = {"n": 1, "list": [0], "float": 0.0}


@pytest.fixture
def canvas(shared_house: House) -> Iterator[Canvas]:
    with Client(shared_house.endpoint) as client:
        yield client.canvases.create(new_id(), STATE)


@pytest.mark.parametrize("change", [{"n": True}, {"n": 1.0}, {"list": [False]}, {"float": -0.0}])
def test_an_edit_to_an_equal_of_another_type_is_an_edit(
    canvas: Canvas, change: dict[str, Any]
) -> None:
    made = canvas.edit(lambda state: {**state, **change})
    assert made.version == 2
    assert repr(canvas.get().state) == repr({**STATE, **change})


def test_an_edit_that_changes_nothing_is_not_sent(canvas: Canvas) -> None:
    turned = dict(reversed(STATE.items()))
    assert canvas.edit(lambda state: state).version == 1
    assert canvas.edit(lambda state: turned).version == 1


@pytest.fixture
def waits_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr("palyra_actors.api.canvases.time.sleep", waited.append)
    monkeypatch.setattr("palyra_actors.api.canvases.random.uniform", lambda low, high: high)
    return waited


def _beaten(canvas: Canvas, times: int) -> int:
    """The version of an edit before which somebody else was quicker that often."""
    left = iter(range(times))

    def change(state: dict[str, Any]) -> dict[str, Any]:
        if next(left, None) is not None:
            version = canvas.get().version
            canvas.patch(version, [{"op": "replace", "path": "/n", "value": version}])
        return {**state, "mine": 1}

    return canvas.edit(change).version


def test_who_is_beaten_many_times_waits_longer_each_time(
    canvas: Canvas, waits_s: list[float]
) -> None:
    assert _beaten(canvas, EDITS_MAX - 1) == EDITS_MAX + 1
    assert len(waits_s) == EDITS_MAX - 1
    assert waits_s == sorted(waits_s)
    assert waits_s[0] < waits_s[-1] == EDIT_AGAIN_MS_MAX / 1000


def test_who_is_always_beaten_is_told_so(canvas: Canvas, waits_s: list[float]) -> None:
    with pytest.raises(Conflict):
        _beaten(canvas, EDITS_MAX)


@pytest.mark.parametrize(
    "patch",
    ['[{"op": "remove", "path": "/n"}]', b"[]", {"op": "remove", "path": "/n"}, {}, None, 5],
    ids=repr,
)
def test_what_is_no_list_of_operations_is_refused_as_that(canvas: Canvas, patch: Any) -> None:
    with pytest.raises(Invalid, match="a patch is a list of operations") as refused:
        canvas.patch(1, patch)
    assert refused.value.field == "patch"
    assert canvas.get().version == 1


def test_a_patch_may_be_any_sequence(canvas: Canvas) -> None:
    operation = {"op": "replace", "path": "/n", "value": 2}
    assert canvas.patch(1, (operation,)) == 2
    assert canvas.patch(2, iter([operation])) == 3  # type: ignore[arg-type]


def test_what_is_of_the_wrong_type_is_not_made_text_of(canvas: Canvas) -> None:
    wrong: Any = {"a": 1}
    with pytest.raises(Invalid) as refused:
        canvas.close(reason=wrong)
    assert refused.value.field == "reason"
    wrong = 1.5
    with pytest.raises(Invalid, match="got `float`") as refused:
        canvas.get(wrong)
    assert refused.value.field == "version"
    assert not canvas.get().closed


def test_a_write_under_an_id_of_ones_own_counts_once(canvas: Canvas) -> None:
    event_id, operation = new_id(), {"op": "add", "path": "/list/-", "value": 1}
    assert canvas.patch(1, [operation], event_id=event_id) == 2
    assert canvas.patch(1, [operation], event_id=event_id) == 2
    assert canvas.get().state["list"] == [0, 1]
    with pytest.raises(IdReused):
        canvas.patch(2, [operation], event_id=event_id)
