"""The compiled hot path and its twin in Python: what one of them makes, the other makes, too."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgpack
import msgspec
import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra_actors.domain.catalog import CLIENT_KINDS
from palyra_actors.domain.chain import Stretch, chain_rows_plainly
from palyra_actors.domain.payload import Sealer
from palyra_actors.domain.run import Run
from palyra_actors.domain.session import (
    NOTHING_SAID,
    Draft,
    Session,
    Status,
    appended,
    changed_runs,
)
from palyra_actors.domain.session import append as append_of
from palyra_actors.domain.swift import SETTINGS, Written, compiled
from palyra_actors.errors import PalyraError
from palyra_actors.ids import format_ulid
from palyra_actors.limits import TAPE_ENTRIES_MAX
from palyra_actors.wire import append, codec, places

pytestmark = pytest.mark.skipif(compiled is None, reason="no compiler when it was installed")

IDS = st.binary(min_size=16, max_size=16)
ULIDS = IDS.map(format_ulid)
FEW = st.sampled_from([format_ulid(bytes([n] * 16)) for n in range(3)])
TEXTS = st.text(max_size=8)
SCALARS: Any = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | st.sampled_from(["token", "tokens", "Tokenx", "api_key", "sk-abcdef123456"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PAYLOADS = st.dictionaries(TEXTS | st.sampled_from(["token", "tokens"]), VALUES, max_size=4)
EVENTS = st.fixed_dictionaries(
    {
        "event_id": ULIDS,
        "session_id": st.just(format_ulid(b"s" * 16)),
        "kind": st.sampled_from([*CLIENT_KINDS, "x.own", "x.a_1.b"]),
        "actor": st.sampled_from(["user", "agent", "system", "plugin"]),
        "ts_ms": st.integers(0, 2**48 - 1),
        "payload": PAYLOADS,
    },
    optional={"run_id": st.none() | FEW},
)
APPENDS = st.fixed_dictionaries(
    {
        "v": st.just(1),
        "id": st.integers(0, 2**64 - 1) | st.text(min_size=1, max_size=16),
        "op": st.just("journal.append"),
        "body": st.fixed_dictionaries(
            {"events": st.lists(EVENTS, min_size=1, max_size=4)},
            optional={"expected_session_seq": st.none() | st.integers(0, 2**63 - 1)},
        ),
    },
    optional={"budget_ms": st.integers(0, 600_000)},
)
ODD: Any = st.sampled_from(
    [None, True, 0, -1, 1.5, 2**48, 2**64 - 1, "", "x", "x.", "x." + "a" * 63, "X.a", [], {}, b"b"]
)

_sealer = Sealer()


def _said(frame: bytes) -> tuple[str, list[Draft]]:
    """The session and the drafts that Python makes of the frame, or its refusal raised."""
    message = codec.decode(frame)
    events = message.body.events
    append.check_count(len(events))
    _sealer.seal([bytes(event.payload) for event in events], [event.kind for event in events])
    unsealed = [(bytes(event.payload), False) for event in events]
    assert len({event.session_id for event in events}) == 1
    assert len({event.event_id for event in events}) == len(events)
    assert message.principal is None
    assert message.traceparent is None
    return events[0].session_id, append.drafts_of(events, unsealed)[0]


def _agree(frame: bytes) -> Written | None:
    """What the compiled half made of it, once the other half agrees."""
    swift = compiled.read_append(frame)
    if swift is None:
        return None
    assert type(swift) is Written
    assert (swift.session_id, swift.drafts) == _said(frame)
    plain = append.decode_plainly(frame)
    if type(plain) is Written:
        assert swift == plain
        assert [type(field) for field in swift] == [type(field) for field in plain]
        assert all(type(draft) is Draft for draft in swift.drafts)
    return swift


@given(request=APPENDS)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_usual_append_is_read_by_both_and_the_same(request: dict[str, Any]) -> None:
    swift = _agree(ormsgpack.packb(request))
    ids = [event["event_id"] for event in request["body"]["events"]]
    assert (swift is not None) == (len(set(ids)) == len(ids))


@given(
    request=APPENDS,
    changes=st.lists(
        st.tuples(st.sampled_from(["event", "body", "envelope"]), st.text(max_size=12), ODD)
        | st.tuples(
            st.just("event"),
            st.sampled_from(["event_id", "session_id", "run_id", "kind", "actor", "ts_ms"]),
            ODD | ULIDS | ULIDS.map(str.lower) | st.text(max_size=30),
        )
        | st.tuples(st.just("event"), st.just("payload"), ODD | VALUES)
        | st.tuples(
            st.just("envelope"),
            st.sampled_from(["v", "id", "op", "budget_ms", "traceparent", "principal"]),
            ODD | st.text(max_size=70),
        )
        | st.tuples(st.just("body"), st.just("expected_session_seq"), ODD),
        min_size=1,
        max_size=2,
    ),
    drop=st.none() | st.sampled_from(["event_id", "kind", "payload", "ts_ms", "actor"]),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_what_the_compiled_half_takes_python_does_not_refuse(
    request: dict[str, Any], changes: list[tuple[str, str, Any]], drop: str | None
) -> None:
    last = request["body"]["events"][-1]
    if drop is not None:
        del last[drop]
    where = {"event": last, "body": request["body"], "envelope": request}
    for place, key, value in changes:
        where[place][key] = value
    _agree(msgspec.msgpack.encode(request))


@given(
    request=APPENDS,
    cuts=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=3)), min_size=1, max_size=3),
)
@settings(max_examples=600, deadline=None, derandomize=True)
def test_bytes_changed_at_random_are_read_the_same_or_left_to_python(
    request: dict[str, Any], cuts: list[tuple[int, bytes]]
) -> None:
    frame = bytearray(ormsgpack.packb(request))
    for at, written in cuts:
        place = at % len(frame)
        frame[place : place + max(1, len(written))] = written
    _agree(bytes(frame))


def _deep(levels: int, inner: bytes) -> bytes:
    """A map of that many levels around a value."""
    return b"\x81\xa1a" * levels + inner


HOSTILE = {
    "64 levels": (_deep(64, b"\x01"), True),
    "65 levels": (_deep(65, b"\x01"), False),
    "an array as the 65th": (_deep(64, b"\x90"), False),
    "NaN": (b"\x81\xa1a\xcb\x7f\xf8\0\0\0\0\0\0", False),
    "infinity of four bytes": (b"\x81\xa1a\xca\x7f\x80\0\0", False),
    "a large float": (b"\x81\xa1a\xcb\x7f\xef\xff\xff\xff\xff\xff\xff", True),
    "a surrogate": (b"\x81\xa1a\xa3\xed\xa0\x80", False),
    "an overlong slash": (b"\x81\xa1a\xa2\xc0\xaf", False),
    "above the last plane": (b"\x81\xa1a\xa4\xf4\x90\x80\x80", False),
    "the last character": (b"\x81\xa1a\xa4\xf4\x8f\xbf\xbf", True),
    "half a character": (b"\x81\xa1a\xa1\xe2", False),
    "a key that is bytes": (b"\x81\xc4\x01a\x01", False),
    "a key that is a number": (b"\x81\x01\x01", False),
    "an extension": (b"\x81\xa1a\xd4\x01\x01", False),
    "the unused byte": (b"\x81\xa1a\xc1", False),
    "a map that promises more": (b"\xdf\xff\xff\xff\xff\xa1a\x01", False),
    "no map": (b"\x91\x01", False),
    "a text": (b"\xa5token", False),
    "wide headers": (b"\xdf\0\0\0\1\xdb\0\0\0\1a\xdd\0\0\0\1\xd3\0\0\0\0\0\0\0\1", True),
    "a repeated key": (b"\x82\xa1a\x01\xa1a\x02", True),
    "a quarter of a megabyte of empty maps": (
        b"\x81\xa1a\xdd\0\3\xff\xf0" + b"\x80" * 262128,
        None,
    ),
    "a quarter of a megabyte": (b"\x81\xa1a\xc6\0\3\xff\xf8" + b"x" * 262136, True),
    "one byte too many": (b"\x81\xa1a\xc6\0\3\xff\xf9" + b"x" * 262137, False),
}


def _frame_around(payload: bytes) -> bytes:
    event = {
        "event_id": format_ulid(b"e" * 16), "session_id": format_ulid(b"s" * 16), "kind": "x.own",
        "actor": "user", "ts_ms": 5, "payload": msgspec.Raw(payload),
    }  # fmt: skip
    return msgspec.msgpack.encode(
        {"v": 1, "id": 7, "op": "journal.append", "body": {"events": [event]}}
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_payloads_at_the_edges_are_taken_or_left_to_python_as_they_should(name: str) -> None:
    payload, taken = HOSTILE[name]
    frame = _frame_around(payload)
    swift = compiled.read_append(frame)
    if taken is not None:
        assert (swift is not None) == taken
    if swift is not None:
        assert swift.drafts[0].payload == payload
        assert _agree(frame) is not None
    elif taken is False:
        with pytest.raises((PalyraError, codec.Unusable)):
            _said(frame)


def _pairs(*pairs: tuple[str, Any]) -> msgspec.Raw:
    """A map with these keys, one of them perhaps twice."""
    body = b"".join(ormsgpack.packb(key) + msgspec.msgpack.encode(value) for key, value in pairs)
    return msgspec.Raw(bytes([0x80 | len(pairs)]) + body)


EVENT: dict[str, Any] = {
    "event_id": format_ulid(b"e" * 16), "session_id": format_ulid(b"s" * 16), "kind": "x.own",
    "actor": "user", "ts_ms": 5, "payload": {},
}  # fmt: skip
ENVELOPE: dict[str, Any] = {"v": 1, "id": 7, "op": "journal.append"}
LEFT_TO_PYTHON = {
    "an id of 131 bits": _pairs(*(EVENT | {"event_id": "8" + "0" * 25}).items()),
    "an id in lower case": _pairs(*(EVENT | {"event_id": EVENT["event_id"].lower()}).items()),
    "an id of 27 characters": _pairs(*(EVENT | {"run_id": EVENT["event_id"] + "0"}).items()),
    "an own kind that is too long": _pairs(*(EVENT | {"kind": "x." + "a" * 63}).items()),
    "an own kind without a name": _pairs(*(EVENT | {"kind": "x."}).items()),
    "a kind of the engine's": _pairs(*(EVENT | {"kind": "session.opened"}).items()),
    "a kind twice": _pairs(*EVENT.items(), ("kind", "x.other")),
    "a field that is unknown": _pairs(*EVENT.items(), ("more", 1)),
    "a time beyond all ids": _pairs(*(EVENT | {"ts_ms": 2**48}).items()),
}


@pytest.mark.parametrize("name", LEFT_TO_PYTHON)
def test_an_event_with_something_unusual_is_left_to_python(name: str) -> None:
    body = {"events": [LEFT_TO_PYTHON[name]]}
    assert compiled.read_append(msgspec.msgpack.encode(ENVELOPE | {"body": body})) is None


def test_whatever_stands_twice_is_left_to_python() -> None:
    body, envelope = {"events": [EVENT]}, ENVELOPE.items()
    assert compiled.read_append(bytes(_pairs(*envelope, ("body", body)))) is not None
    for frame in (
        _pairs(*envelope, ("body", body), ("body", body)),
        _pairs(*envelope, ("body", body), ("id", 8)),
        _pairs(*envelope, ("body", body), ("budget_ms", 1), ("budget_ms", 2)),
        _pairs(*envelope, ("body", _pairs(*body.items(), *body.items()))),
        _pairs(*envelope, ("body", _pairs(*body.items(), *[("expected_session_seq", 1)] * 2))),
        _pairs(*envelope, ("body", {"events": [EVENT, EVENT]})),
    ):
        assert compiled.read_append(bytes(frame)) is None


DRAFTS = st.builds(
    Draft,
    IDS,
    st.none() | IDS,
    st.sampled_from([1, 2, 6, 100, 164, "x.own", "x." + "a" * 62]),
    st.integers(1, 4),
    st.integers(0, 2**48 - 1),
    st.binary(max_size=300),
    st.booleans(),
)
STRETCHES = st.lists(DRAFTS, max_size=6).flatmap(
    lambda drafts: st.builds(
        Stretch,
        st.just(drafts),
        st.integers(1, 2**40),
        st.sampled_from(["session", "canvas", "memory"]),
        IDS,
        st.integers(1, 2**40),
        st.integers(0, 2**20),
        st.none() | st.lists(st.none() | IDS, min_size=len(drafts), max_size=len(drafts)),
        st.integers(1, 300),
        st.text("abcXYZ019_.:@-", min_size=1, max_size=64),
        st.none() | st.text(max_size=128),
    )
)


@pytest.fixture(params=[True, False], ids=["own sha", "hashlib"])
def hashes(request: pytest.FixtureRequest) -> Iterator[None]:
    compiled.setup(**{**SETTINGS, "own_sha": request.param})
    yield
    compiled.setup(**SETTINGS)


@pytest.mark.usefixtures("hashes")
def test_rows_numbers_and_hashes_are_the_same() -> None:
    @given(
        stretches=st.lists(STRETCHES, max_size=4),
        seq=st.integers(2**20, 2**62),
        link=st.binary(min_size=32, max_size=32),
        recorded_ms=st.integers(0, 2**48 - 1),
    )
    @settings(max_examples=60, deadline=None, derandomize=True)
    def check(stretches: list[Stretch], seq: int, link: bytes, recorded_ms: int) -> None:
        rows = compiled.chain_rows(stretches, seq, link, recorded_ms)
        assert rows == chain_rows_plainly(stretches, seq, link, recorded_ms)
        made = rows[0]
        assert append.encode_results_plainly(made, 0, len(made)) == compiled.encode_results(
            made, 0, len(made)
        )

    check()


@given(length=st.integers(0, 400))
@settings(max_examples=120, deadline=None, derandomize=True)
def test_a_digest_is_right_whatever_the_length(length: int) -> None:
    draft = Draft(b"e" * 16, None, 1, 1, 0, bytes(range(256)) * 2, False)
    draft = draft._replace(payload=draft.payload[:length])
    stretch = Stretch(
        [draft], 1, "session", b"s" * 16, 1, 0, None, 1, "p" * (length % 64 + 1), None
    )
    assert compiled.chain_rows([stretch], 0, bytes(32), 1) == chain_rows_plainly(
        [stretch], 0, bytes(32), 1
    )


@given(
    request_id=st.integers(0, 2**64 - 1) | st.text(min_size=1, max_size=64),
    times=st.tuples(*[st.floats(allow_nan=False)] * 3),
    within=st.booleans(),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_an_answer_is_the_same_bytes(
    request_id: int | str, times: tuple[float, float, float], within: bool
) -> None:
    results = append.encode_results_plainly([], 0, 0)
    assert compiled.encode_ok(request_id, results, *times, within) == append.encode_ok_plainly(
        request_id, results, *times, within
    )


FINE = Draft(b"e" * 16, None, 1, 1, 0, b"", False)
ALONE = Stretch([FINE], 1, "session", b"s" * 16, 1, 0, None, 1, "p", None)


@pytest.mark.parametrize(
    "stretch",
    [
        ALONE._replace(drafts=[(1, 2)]),  # type: ignore[list-item]
        ALONE._replace(drafts=[FINE._replace(event_id=b"short")]),
        ALONE._replace(drafts=[FINE._replace(kind=99)]),
        ALONE._replace(drafts=[FINE._replace(actor=9)]),
        ALONE._replace(drafts=[FINE._replace(ts_ms=-1)]),
        ALONE._replace(stream_id=b"s"),
        ALONE._replace(sessions=[]),
        ALONE._replace(principal_name="p" * 900),
    ],
)
def test_what_is_no_draft_raises_and_harms_nothing(stretch: Stretch) -> None:
    with pytest.raises((TypeError, ValueError, IndexError, OverflowError)):
        compiled.chain_rows([ALONE, stretch], 0, bytes(32), 1)


Found = tuple[list[bytes], dict[str, bytes], int]


def _found(found: Mapping[Any, msgspec.Raw], state: int) -> Found:
    """Values under keys that are no text, the others, and whether that is all; of half a map too
    deep or broken are the same."""
    odd = [bytes(raw) for key, raw in found.items() if type(key) is not str]
    named = {key: bytes(raw) for key, raw in found.items() if type(key) is str}
    return odd, named, state


@given(
    values=st.dictionaries(TEXTS | st.integers(-5, 2**64 - 1) | st.binary(), VALUES, max_size=20),
    cut=st.none() | st.tuples(st.integers(0, 10**6), st.binary(max_size=3)),
    large=st.booleans(),
)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_a_map_is_read_as_its_twin_reads_it(
    values: dict[Any, Any], cut: tuple[int, bytes] | None, large: bool
) -> None:
    map_of = {**values, "z": [None, "x", {}] * (6_000 if large else 1)}
    frame = msgpack.packb(map_of)
    assert isinstance(frame, bytes)
    if cut is not None:
        place = cut[0] % len(frame)
        frame = frame[:place] + cut[1] + frame[place + len(cut[1]) + 1 :]
    found, twin = places.read_map_swiftly(frame), places.read_map_plainly(frame)
    assert (found[1] == places.WHOLE) == (twin[1] == places.WHOLE)
    if found[1] == places.WHOLE:
        assert _found(*found) == _found(*twin)
    if cut is None:
        assert found[1] == places.WHOLE


_KEYS_65 = b"\xde\x00\x41" + b"".join(b"\xa2%02d\xc0" % number for number in range(65))


@pytest.mark.parametrize(
    ("frame", "state", "names"),
    [
        *((frame, places.BROKEN, "") for frame in (
            b"", b"\xc0", b"\x90", b"\x81", b"\x81\xa1a", b"\x81\xa1a\xc1", b"\x81\xa1\xff\x02",
            b"\x81\xa1a\xd9\x05abc", b"\x81\xa1a\xdd\xff\xff\xff\xff", b"\x81\xa1a\xd4\x01",
            b"\x81\xa1a\xc6\xff\xff\xff\xff", b"\x81\xa1a\xc8\x00\x02\x01\x02",
            b"\x81\x91\x01\x02", b"\x81\x80\x02", _KEYS_65,
        )),
        (b"\x81\xa1a\xc0\xc0", places.BROKEN, "a"),
        (b"\x82\xa1a\x01\xa1b\x91", places.BROKEN, "a"),
        (b"\x82\xa1a\x01\xa1b" + b"\x91" * 2_000 + b"\xc0", places.TOO_DEEP, "a"),
        (b"\x81\xa1a\xd4\x01\x02", places.WHOLE, "a"),
        (b"\x81\xa1a\xc7\x02\x01\x02\x03", places.WHOLE, "a"),
        (b"\x82\x01\x02\xa1a\xc0", places.WHOLE, "a"),
        (b"\x81\xa1a" + b"\x91" * 300 + b"\xc0", places.WHOLE, "a"),
    ],
)  # fmt: skip
def test_a_map_at_the_edges_is_read_by_both_and_the_same(
    frame: bytes, state: int, names: str
) -> None:
    for read in (places.read_map_swiftly, places.read_map_plainly):
        found, got = read(frame)
        assert (got, "".join(key for key in found if type(key) is str)) == (state, names)


def test_a_key_that_stands_twice_has_its_last_value() -> None:
    frame = b"\x82\xa1a\x01\xa1a\x92\x02\x03"
    for read in (places.read_map_swiftly, places.read_map_plainly):
        assert _found(*read(frame)) == ([], {"a": b"\x92\x02\x03"}, places.WHOLE)


def test_of_a_key_that_is_no_name_only_the_beginning_is_made() -> None:
    for key in ("x" * 5_000, "é" * 5_000, "x" * 1_023 + "é"):
        found, state = places.read_map_swiftly(msgpack.packb({key: 1}))
        assert state == places.WHOLE
        assert key.startswith(next(iter(found)))
        assert len(next(iter(found)).encode()) in (1_023, 1_024)
    assert places.read_map_swiftly(b"\x81\xda\x08\x00" + b"\xff" * 2_048 + b"\xc0")[1]


@given(items=st.lists(VALUES, max_size=20), cut=st.integers(0, 3), more=st.binary(max_size=2))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_list_is_read_as_its_twin_reads_it(items: list[Any], cut: int, more: bytes) -> None:
    raw = ormsgpack.packb(items)
    for frame in (raw, raw[: max(0, len(raw) - cut)] + more):
        read: list[list[bytes] | None] = []
        for reader in (places.read_items_swiftly, places.read_items_plainly):
            try:
                read.append([bytes(each) for each in reader(frame, 19)])
            except msgspec.MsgspecError:
                read.append(None)
        assert read[0] == read[1]
    if len(items) < 20:
        assert [bytes(each) for each in places.read_items_swiftly(raw, 19)] == [
            ormsgpack.packb(each) for each in items
        ]


# -- deciding -------------------------------------------------------------------------------------

RUN_IDS = [bytes([n] * 16) for n in range(1, 12)]
RUNS = st.builds(
    Run,
    state=st.integers(1, 6),
    first=st.integers(1, 9),
    last=st.none() | st.integers(1, 9),
    entries=st.sampled_from([0, 1, TAPE_ENTRIES_MAX - 2, TAPE_ENTRIES_MAX - 1, TAPE_ENTRIES_MAX]),
    open=st.booleans(),
    created_ms=st.none() | st.integers(0, 9),
)
DECIDED_DRAFTS = st.builds(
    Draft,
    event_id=IDS,
    run_id=st.none() | st.sampled_from(RUN_IDS),
    kind=st.sampled_from([*CLIENT_KINDS.values(), "x.own"]),
    actor=st.just(1),
    ts_ms=st.just(0),
    payload=st.just(b"\x80"),
    redacted=st.just(False),
)
SESSIONS = st.builds(
    Session,
    last_seq=st.integers(0, 2**40),
    status=st.sampled_from([Status.OPEN] * 5 + [Status.ARCHIVED, Status.ERASED]),
    runs=st.dictionaries(st.sampled_from(RUN_IDS), RUNS, min_size=9),
    about=st.sampled_from([NOTHING_SAID] * 5 + [None]),
)


@settings(max_examples=400)
@given(
    before=SESSIONS, drafts=st.lists(DECIDED_DRAFTS, min_size=1, max_size=9), seq=st.none() | FEW
)
def test_what_goes_on_goes_on_as_it_is_decided(
    before: Session, drafts: list[Draft], seq: str | None
) -> None:
    command = append_of(drafts, None if seq is None else before.last_seq)
    command = command._replace(run_ids=tuple(command.run_ids))
    runs = dict(before.runs)
    found = compiled.go_on(before, command)
    assert before.runs == runs, "the state before stays as it was"
    try:
        after = appended(before, command)
    except PalyraError:
        assert found is None
        return
    told = tuple(changed_runs(before, after, command.run_ids))
    if found is None:
        unusual = (
            before.about is None
            or command.ends
            or command.expected_seq is not None
            or any(run_id not in before.runs for run_id in command.run_ids)
            or len(command.run_ids) > 8
        )
        assert unusual
        return
    assert type(found[0]) is Session
    assert found == (after, told)
    assert all(type(run) is Run for _, run, _ in found[1])
    assert (found[0].runs is before.runs) == (after.runs is before.runs)


@pytest.mark.parametrize(
    ("before", "command"),
    [
        (None, None),
        (Session(1, Status.OPEN, {}, NOTHING_SAID), None),
        (Session(1, Status.OPEN, {}, NOTHING_SAID), ([], None, (), False)[:3]),
        (Session(1, Status.OPEN, {}, NOTHING_SAID), ((), None, (), False)),
        (Session(1, Status.OPEN, {}, NOTHING_SAID), ([None], None, (b"",), False)),
        (Session(-1, Status.OPEN, {}, NOTHING_SAID), ([], None, (), False)),
        (tuple(Session(1, Status.OPEN, {}, NOTHING_SAID)), ([], None, (), False)),
    ],
)
def test_what_is_no_session_or_no_append_is_left_to_others(before: Any, command: Any) -> None:
    assert compiled.go_on(before, command) is None
