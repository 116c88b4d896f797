"""A session's decisions and its fold."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra_actors.domain.catalog import (
    RUN_COMPLETED,
    RUN_DONE,
    RUN_FAILED,
    RUN_IN_PROGRESS,
    RUN_STATE_FAILED,
    kind_name,
)
from palyra_actors.domain.fact import Fact
from palyra_actors.domain.run import Run
from palyra_actors.domain.session import (
    WHEN_RECORDED,
    About,
    Append,
    Draft,
    Session,
    Status,
    append,
    appended,
    changed_runs,
    with_event,
)
from palyra_actors.domain.session_commands import fold
from palyra_actors.errors import Conflict, Gone, InvalidTransition, LimitReached, PalyraError

RUNS = [bytes([n]) * 16 for n in range(1, 5)]
ENDS = {RUN_COMPLETED: RUN_DONE, RUN_FAILED: RUN_STATE_FAILED}


def _draft(kind: int | str = 1, run: bytes | None = None) -> Draft:
    return Draft(b"e" * 16, run, kind, 1, 0, b"\x80", False)


_DRAFTS = st.builds(
    _draft,
    st.sampled_from([1, 2, "x.a", RUN_COMPLETED, RUN_FAILED]),
    st.none() | st.sampled_from(RUNS),
)


def _apply(session: Session, command: Append) -> Session:
    return appended(session, command)


class Model:
    """The same rules, told in the plainest words."""

    def __init__(self) -> None:
        self.count = 0
        self.runs: dict[bytes, list[Any]] = {}

    def append(self, drafts: list[Draft]) -> bool:
        """False: refused, and nothing changed."""
        count, runs = self.count, {run: list(state) for run, state in self.runs.items()}
        for draft in drafts:
            count += 1
            if draft.run_id is None:
                continue
            run = runs.setdefault(draft.run_id, [RUN_IN_PROGRESS, count, None])
            if draft.kind in ENDS:
                end = ENDS[int(draft.kind)]
                if run[0] not in (RUN_IN_PROGRESS, end):
                    return False
                if run[0] == RUN_IN_PROGRESS:
                    run[0], run[2] = end, count
        self.count, self.runs = count, runs
        return True


@given(batches=st.lists(st.lists(_DRAFTS, min_size=1, max_size=6), max_size=8))
@settings(max_examples=150)
def test_decisions_and_states_are_those_of_a_plain_model(batches: list[list[Draft]]) -> None:
    session, model = Session(), Model()
    for drafts in batches:
        before = session
        try:
            session = _apply(session, append(drafts))
        except InvalidTransition:
            assert not model.append(drafts)
            assert session is before
        else:
            assert model.append(drafts)
        assert session.last_seq == model.count
        assert {run: list(state[:3]) for run, state in session.runs.items()} == model.runs


def _folded(drafts: list[Draft]) -> Session:
    """What a replay makes of the events."""
    session: Session | None = None
    for number, draft in enumerate(drafts, 1):
        kind = kind_name(draft.kind)
        fact = Fact(
            kind, {}, number, 0, number, WHEN_RECORDED, draft.run_id, b"s" * 16, b"e" * 16, "user",
            "local",
        )  # fmt: skip
        session, _ = fold(session, fact, 1)
    assert session is not None
    return session


@given(batches=st.lists(st.lists(_DRAFTS, min_size=1, max_size=6), min_size=1, max_size=8))
@settings(max_examples=150)
def test_a_replay_event_by_event_is_what_the_requests_made(batches: list[list[Draft]]) -> None:
    session = Session()
    written: list[Draft] = []
    for drafts in batches:
        with suppress(InvalidTransition):
            session = _apply(session, append(drafts))
            written += drafts
    if written:
        assert _folded(written) == session


@given(batches=st.lists(st.lists(_DRAFTS, min_size=1, max_size=6), max_size=8))
def test_the_changes_between_two_states_lead_from_one_to_the_other(
    batches: list[list[Draft]],
) -> None:
    session = Session()
    told: dict[bytes, Run] = {}
    for drafts in batches:
        try:
            after = _apply(session, append(drafts))
        except InvalidTransition:
            continue
        for run_id, run, is_new in changed_runs(session, after):
            assert is_new is (run_id not in told)
            told[run_id] = run
        session = after
        assert told == dict(session.runs)


@given(drafts=st.lists(_DRAFTS, min_size=1, max_size=6))
def test_deciding_changes_nothing_of_what_it_was_given(drafts: list[Draft]) -> None:
    session = _apply(Session(), append([_draft(run=RUNS[0]), _draft(run=RUNS[1])]))
    last_seq, runs = session.last_seq, dict(session.runs)
    kept = list(drafts)
    with suppress(PalyraError):
        _apply(session, append(drafts))
    assert (session.last_seq, dict(session.runs)) == (last_seq, runs)
    assert drafts == kept


def test_a_run_is_in_progress_from_its_first_event_and_remembers_it() -> None:
    session = _apply(Session(last_seq=4), append([_draft(), _draft(run=RUNS[0])]))
    assert session.runs[RUNS[0]][:3] == (RUN_IN_PROGRESS, 6, None)


@pytest.mark.parametrize(("kind", "state"), ENDS.items())
def test_a_run_that_ends_stays_so_and_still_takes_events(kind: int, state: int) -> None:
    session = _apply(Session(), append([_draft(run=RUNS[0]), _draft(kind, RUNS[0])]))
    assert session.runs[RUNS[0]][:3] == (state, 1, 2)
    session = _apply(session, append([_draft(run=RUNS[0]), _draft(kind, RUNS[0])]))
    assert session.runs[RUNS[0]][:3] == (state, 1, 2)


@pytest.mark.parametrize("kind", ENDS)
def test_an_end_that_names_no_run_ends_none(kind: int) -> None:
    session = _apply(Session(), append([_draft(run=RUNS[0]), _draft(kind)]))
    assert session.runs[RUNS[0]].state == RUN_IN_PROGRESS


@pytest.mark.parametrize(("first", "second"), [tuple(ENDS), tuple(ENDS)[::-1]])
@pytest.mark.parametrize("together", [True, False])
def test_nothing_leads_from_one_end_to_the_other(first: int, second: int, together: bool) -> None:
    drafts = [_draft(), _draft(first, RUNS[0]), _draft(), _draft(second, RUNS[0])]
    session = Session()
    if not together:
        session, drafts = _apply(session, append(drafts[:2])), drafts[2:]
    with pytest.raises(InvalidTransition) as refusal:
        _apply(session, append(drafts))
    assert refusal.value.field == f"events[{len(drafts) - 1}].kind"
    names = {RUN_COMPLETED: "done", RUN_FAILED: "failed"}
    assert refusal.value.detail == {"from": names[first], "to": names[second]}


@pytest.mark.parametrize("expected", [0, 4, 6, 2**63 - 1])
def test_another_expected_number_is_a_conflict_that_says_the_present_one(expected: int) -> None:
    with pytest.raises(Conflict) as refusal:
        _apply(Session(last_seq=5), append([_draft()], expected))
    assert refusal.value.detail == {"actual": 5}


def test_the_expected_number_is_let_through() -> None:
    assert _apply(Session(last_seq=5), append([_draft()], 5)).last_seq == 6
    assert _apply(Session(), append([_draft()], 0)).last_seq == 1


@pytest.mark.parametrize(("status", "error"), [("archived", InvalidTransition), ("erased", Gone)])
def test_a_session_that_is_not_open_takes_nothing_more(
    status: str, error: type[PalyraError]
) -> None:
    with pytest.raises(error):
        _apply(Session(last_seq=3, status=Status(status)), append([_draft()]))


def test_the_tape_takes_1024_entries_and_the_end() -> None:
    run = RUNS[0]
    session = _apply(Session(), append([_draft(2, run)] * 50 + [_draft(1, run)] * 1_023))
    assert session.runs[run].entries == 1_024
    for kind in (1, 2, "x.a"):
        with pytest.raises(LimitReached) as refusal:
            _apply(session, append([_draft(), _draft(kind, run)]))
        assert refusal.value.field == "events[1].run_id"
    ended = _apply(session, append([_draft(RUN_COMPLETED, run)]))
    assert (ended.runs[run].state, ended.runs[run].entries) == (RUN_DONE, 1_024)


def test_tokens_go_on_in_an_entry_that_is_open_however_full_the_tape_is() -> None:
    run = RUNS[0]
    session = _apply(Session(), append([_draft(1, run)] * 1_023 + [_draft(2, run)]))
    assert _apply(session, append([_draft(2, run)] * 9)).runs[run].entries == 1_024


@given(drafts=st.lists(_DRAFTS, max_size=8))
def test_a_command_says_of_its_drafts_what_is_in_them(drafts: list[Draft]) -> None:
    command = append(drafts, 3)
    assert isinstance(command, Append)
    assert set(command.run_ids) == {d.run_id for d in drafts if d.run_id is not None}
    assert command.ends is any(d.kind in ENDS for d in drafts)


def test_a_sessions_tokens_stop_where_the_file_does() -> None:
    about = About(tokens_in=2**63 - 2, tokens_out=5)
    usage = {"usage": {"input_tokens": 2**53, "output_tokens": 1}}
    _, after = with_event(Run(RUN_IN_PROGRESS, 1, None), about, RUNS[0], RUN_COMPLETED, 2, usage, 0)
    assert (after.tokens_in, after.tokens_out) == (2**63 - 1, 6)
