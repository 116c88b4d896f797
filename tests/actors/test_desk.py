"""What becomes of a round that is more than a slice."""

from pathlib import Path

import pytest

from palyra_actors.actors import admission, desk
from palyra_actors.api.events import new_id
from tests.faults.rig import NO_BUDGET, Caller, rig
from tests.system.harness import event


@pytest.mark.parametrize("rest_bytes_max", [0, desk.REST_BYTES_MAX])
def test_what_a_lone_client_sends_while_the_rest_of_a_round_waits_is_answered_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest_bytes_max: int
) -> None:
    monkeypatch.setattr(admission, "COMPANY_S", -1.0)  # it has been alone for long
    monkeypatch.setattr(desk, "REST_BYTES_MAX", rest_bytes_max)
    session = new_id()
    with rig(tmp_path / "j.db", NO_BUDGET) as works:
        caller = Caller(works)
        caller.append(event(session)).reply()
        made = [caller.prepare("journal.append", {"events": [event(session)]}) for _ in range(900)]
        frames = [(caller, frame) for _, frame in made]

        def one_round() -> None:
            for start in range(0, len(frames), 300):
                works.works.desk.serve(frames[start : start + 300])

        works.on_loop(one_round)
        numbers = [asked.reply()["ok"]["results"][0]["session_seq"] for asked, _ in made]
        assert numbers == list(range(2, 902))
        works.assert_at_rest()
