"""Recorded runs as events."""

import json
import os
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from palyra_actors.api.events import Event
from palyra_actors.errors import Invalid, NotFound, Refused, TooLarge
from palyra_actors.ids import parse_ulid, ulid_time_ms
from palyra_actors.importer import CUT_MARK, read_events
from palyra_actors.limits import PAYLOAD_BYTES_MAX


def events(path: Path) -> list[Event]:
    return [imported.event for imported in read_events(path)]


def write(path: Path, *values: Any, **options: Any) -> Path:
    path.write_text("\n".join(json.dumps(value, **options) for value in values) + "\n")
    return path


RUN = {
    "trajectory": [
        {"thought": "look", "action": "ls -a", "observation": "a b", "execution_time": 1.5},
        {"thought": "done", "action": "submit", "observation": "", "state": {"dir": "/"}},
        {"thought": "unspoken", "action": "", "observation": ""},
    ],
    "history": [
        {"role": "system", "content": "be good"},
        {"role": "assistant", "content": "shown", "action": "ls -a", "is_demo": True},
        {"role": "user", "content": "fix it"},
        {"role": "assistant", "content": "look", "action": "ls -a"},
        {"role": "tool", "content": "a b"},
        {"role": "assistant", "content": "done", "action": "submit"},
    ],
    "info": {"exit_status": "submitted"},
}


def test_a_trajectory_is_one_run_with_each_step_behind_its_message(tmp_path: Path) -> None:
    found = events(write(tmp_path / "a.traj", RUN, indent=1))
    assert [(event.kind, event.actor) for event in found] == [
        ("message_received", "system"),
        ("message_received", "agent"),
        ("message_received", "user"),
        ("message_received", "agent"),
        ("model_token", "agent"),
        ("tool_proposed", "agent"),
        ("tool_executed", "plugin"),
        ("message_received", "plugin"),
        ("message_received", "agent"),
        ("model_token", "agent"),
        ("tool_proposed", "agent"),
        ("tool_executed", "plugin"),
        ("model_token", "agent"),
        ("run_completed", "system"),
    ]
    assert found[5].payload == {"tool": "ls", "action": "ls -a"}
    assert found[6].payload == {"tool": "ls", "observation": "a b", "execution_time": 1.5}
    assert len({event.session_id for event in found}) == 1
    assert len({event.run_id for event in found}) == 1
    assert found[5].ts_ms == 0
    assert found[6].ts_ms == found[-1].ts_ms == 1500


@pytest.mark.parametrize(
    ("status", "kind"), [("submitted (exit_cost)", "run_completed"), ("exit_error", "run_failed")]
)
def test_how_a_run_ended_is_what_its_file_says(tmp_path: Path, status: str, kind: str) -> None:
    run = RUN | {"info": {"exit_status": status}}
    assert events(write(tmp_path / "a.traj", run))[-1].kind == kind
    assert events(write(tmp_path / "b.traj", RUN | {"info": {}}))[-1].kind == "model_token"


def test_reading_again_from_another_place_gives_the_same_ids(tmp_path: Path) -> None:
    first = write(tmp_path / "a.traj", RUN)
    second = write(tmp_path / "renamed.json", RUN)
    other = write(tmp_path / "b.traj", RUN | {"more": 1})
    os.utime(second, (1, 1))
    assert events(first) == events(second)
    mine = {event.event_id for event in events(first)}
    assert len(mine) == 14
    assert mine.isdisjoint({event.event_id for event in events(other)})
    for event in events(first):
        for each in (event.event_id, event.session_id, event.run_id):
            parse_ulid(str(each))


def test_a_log_that_has_grown_keeps_the_ids_of_its_first_lines(tmp_path: Path) -> None:
    lines = [{"kind": "x.a", "payload": {"n": n}} for n in (1, 2, 2)]
    path = tmp_path / "log.jsonl"
    one = events(write(path, *lines[:1]))
    two = events(write(path, *lines[:2]))
    three = events(write(path, *lines))
    assert one == two[:1]
    assert two == three[:2]
    assert len({event.event_id for event in three}) == 3
    assert len({event.session_id for event in three}) == 1


CHAT = [
    {"role": "system", "content": "be good"},
    {"role": "user", "content": [{"type": "text", "text": "hi"}], "ts_ms": 1_700_000_000_000},
    {
        "role": "assistant",
        "content": "let me look",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "a b"},
]


@pytest.mark.parametrize("shape", ["document", "list", "line", "lines of messages"])
def test_a_chat_is_read_in_every_shape_it_comes_in(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "chat.json"
    if shape == "lines of messages":
        write(path, *CHAT)
    else:
        write(path, CHAT if shape == "list" else {"messages": CHAT}, indent=shape != "line" or None)
    found = events(path)
    assert [(event.kind, event.actor) for event in found] == [
        ("message_received", "system"),
        ("message_received", "user"),
        ("model_token", "agent"),
        ("tool_proposed", "agent"),
        ("tool_executed", "plugin"),
    ]
    assert found[2].payload == {"text": "let me look"}
    assert found[3].payload == {"tool": "ls", "arguments": "{}", "tool_call_id": "c1"}
    assert found[4].payload == {"observation": "a b", "tool_call_id": "c1"}
    assert len({event.session_id for event in found}) == 1
    assert len({event.event_id for event in found}) == 5


def test_each_line_that_is_a_chat_is_a_session_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "chats.jsonl", *[{"messages": CHAT[:2]}] * 3)
    found = events(path)
    assert len(found) == 6
    assert len({event.session_id for event in found}) == 3


def test_a_record_that_has_a_time_keeps_it_in_its_event_and_its_id(tmp_path: Path) -> None:
    times: list[object] = [
        1_700_000_000_123,
        1_700_000_000,
        1_700_000_000.5,
        "2023-11-14T22:13:20Z",
        "2023-11-14T23:13:20.250+01:00",
        "2023-11-14 22:13:20",
        "yesterday",
        True,
        -5,
    ]
    path = tmp_path / "events.jsonl"
    write(path, *[{"kind": "x.a", "payload": {}, "timestamp": time} for time in times])
    found = events(path)
    base = 1_700_000_000_000
    assert [event.ts_ms for event in found] == [
        base + 123,
        base,
        base + 500,
        base,
        base + 250,
        base,
        0,
        0,
        0,
    ]
    assert [ulid_time_ms(parse_ulid(str(event.event_id))) for event in found] == [
        event.ts_ms for event in found
    ]


def test_exported_events_keep_the_ids_they_had(tmp_path: Path) -> None:
    stored = {
        "seq": 9,
        "event_id": "01J00000000000000000000001",
        "session_id": "01J00000000000000000000002",
        "run_id": None,
        "kind": "message_received",
        "actor": "user",
        "ts_ms": 5,
        "payload": {"text": "x"},
        "hash": "00" * 32,
    }
    for path in (
        write(tmp_path / "a.jsonl", stored, stored | {"event_id": "01J00000000000000000000003"}),
        write(tmp_path / "b.json", {"events": [stored]}, indent=2),
    ):
        first = events(path)[0]
        assert (first.event_id, first.session_id, first.ts_ms) == (
            stored["event_id"],
            stored["session_id"],
            5,
        )
        assert (first.run_id, first.actor, first.payload) == (None, "user", {"text": "x"})


def test_text_beyond_the_payload_limit_is_cut_and_counted(tmp_path: Path) -> None:
    long = "ž" * 300_000
    path = write(tmp_path / "a.jsonl", {"kind": "x.a", "payload": {"short": "s", "long": long}})
    imported = next(read_events(path))
    payload = dict(imported.event.payload)
    assert PAYLOAD_BYTES_MAX - 100 < len(msgpack.packb(payload)) <= PAYLOAD_BYTES_MAX
    assert long.startswith(payload["long"])
    assert payload["short"] == "s"
    assert payload[CUT_MARK] == imported.cut_bytes == 600_000 - len(payload["long"].encode())
    with pytest.raises(TooLarge):
        events(write(tmp_path / "b.jsonl", {"kind": "x.a", "payload": {"n": [1] * 300_000}}))


def test_what_json_can_say_and_the_journal_cannot_is_made_to_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"kind":"x.a","payload":{"half":"\\ud83d","big":123456789012345678901234567890,'
        '"nan":NaN,"inf":-Infinity,"wide":1e999,"ok":[18446744073709551615,"\\ud83d\\ude00"]}}'
    )
    assert events(path)[0].payload == {
        "half": "�",
        "big": "123456789012345678901234567890",
        "nan": "NaN",
        "inf": "-Infinity",
        "wide": "inf",
        "ok": [18446744073709551615, "😀"],
    }


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", False),
        ("not json", False),
        ('{"a": 1}', True),
        ("[]", True),
        ('{"kind": "x.a", "payload": 5}', True),
        ('{"kind":"x.a","payload":{}}\nnonsense', True),
        ("[" * 100_000, False),
        ('{"kind":"x.a","payload":{"a":' + "[" * 80 + "]" * 80 + "}}", True),
    ],
)
def test_what_is_no_recorded_run_is_invalid_and_named(
    tmp_path: Path, content: str, line: bool
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(Invalid) as caught:
        events(path)
    assert caught.value.field is not None
    if line and 'payload": 5' not in content:
        assert caught.value.field.startswith(f"{path}:")


def test_a_file_that_cannot_be_read_is_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(NotFound):
            events(path)


def test_progress_rises_to_the_files_size(tmp_path: Path) -> None:
    for path in (
        write(tmp_path / "a.traj", RUN, indent=1),
        write(tmp_path / "b.jsonl", *[{"kind": "x.a", "payload": {}}] * 9),
    ):
        done = [imported.done_bytes for imported in read_events(path)]
        assert done == sorted(done)
        assert done[-1] == path.stat().st_size


KEYS = """trajectory history messages events kind payload role content tool_calls info
exit_status action ts_ms function""".split()  # noqa: SIM905

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(JSON)
@example({"trajectory": [], "history": True})
def test_whatever_a_file_holds_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value))
    try:
        found = events(path)
    except Refused:
        return
    for event in found:
        assert isinstance(event.payload, dict)
        assert event.actor
        msgpack.packb(event.to_wire())


def test_real_trajectories_hold_their_messages_and_their_steps(shared: Path) -> None:
    runs = sorted((shared / "data" / "trajectories").glob("*.traj"))
    assert runs
    for path in runs:
        run = json.loads(path.read_text())
        found = events(path)
        kinds = [event.kind for event in found]
        assert kinds.count("message_received") == len(run["history"])
        assert kinds.count("tool_executed") == len(run.get("trajectory", []))
        observed = [e.payload["observation"] for e in found if e.kind == "tool_executed"]
        assert observed == [step["observation"] for step in run.get("trajectory", [])]
        assert len({event.event_id for event in found}) == len(found)
