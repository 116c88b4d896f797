"""Documents: patches against an independent applier, canonical bytes against the slow way."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra_actors.domain.canonical import canonical, is_plain, state_hash
from palyra_actors.domain.canvas import Canvas, fold
from palyra_actors.domain.document import (
    ITEMS_PER_WORK,
    POINTER_WORK,
    _Work,
    alike,
    apply_patch_document,
    build_replace_root_patch,
    replay_patch,
    smaller_patch,
)
from palyra_actors.domain.fact import Fact
from palyra_actors.domain.survey import survey
from palyra_actors.errors import Invalid, PalyraError, TooLarge
from palyra_actors.limits import CANVAS_WORK_MAX
from tests.campaign import examples
from tests.figures import Tell

_KEYS = st.sampled_from(["a", "b", "c/d", "e~f", "", "0", "1", "-", "ключ"])
_LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, "", "x", "1"])
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)
_DOCUMENTS = st.dictionaries(_KEYS, _VALUES, max_size=4)


class Refused(Exception):
    """By the applier below."""


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1, but 1 is 1.0."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return (
        type(one) in (int, float, str, type(None))
        and one == other
        and (isinstance(one, str) == isinstance(other, str))
    )


def parts_of(pointer: str) -> list[str]:
    if pointer and not pointer.startswith("/"):
        raise Refused
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def index_of(array: list[Any], part: str, end: int) -> int:
    if not (part.isascii() and part.isdigit()) or (len(part) > 1 and part[0] == "0"):
        raise Refused
    if int(part) >= end:
        raise Refused
    return int(part)


def get(document: Any, parts: list[str]) -> Any:
    for part in parts:
        if isinstance(document, dict) and part in document:
            document = document[part]
        elif isinstance(document, list):
            document = document[index_of(document, part, len(document))]
        else:
            raise Refused
    return document


def put(document: Any, parts: list[str], value: Any) -> Any:
    if not parts:
        return value
    holder = get(document, parts[:-1])
    if isinstance(holder, dict):
        holder[parts[-1]] = value
    elif isinstance(holder, list):
        at = len(holder) if parts[-1] == "-" else index_of(holder, parts[-1], len(holder) + 1)
        holder.insert(at, value)
    else:
        raise Refused
    return document


def take(document: Any, parts: list[str]) -> Any:
    if not parts:
        raise Refused
    found, holder = get(document, parts), get(document, parts[:-1])
    del holder[parts[-1] if isinstance(holder, dict) else int(parts[-1])]
    return found


def plain_apply(document: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902 from its text, on a copy."""
    document = copy.deepcopy(document)
    for one in operations:
        parts = parts_of(one["path"])
        match one["op"]:
            case "add":
                document = put(document, parts, copy.deepcopy(one["value"]))
            case "remove":
                take(document, parts)
            case "replace":
                if parts:
                    holder, at = get(document, parts[:-1]), get(document, parts)
                    del at
                    key: Any = parts[-1] if isinstance(holder, dict) else int(parts[-1])
                    holder[key] = copy.deepcopy(one["value"])
                else:
                    document = copy.deepcopy(one["value"])
            case "move":
                source = parts_of(one["from"])
                if parts[: len(source)] == source and parts != source:
                    raise Refused
                get(document, source)
                if parts != source:
                    document = put(document, parts, take(document, source))
            case "copy":
                document = put(document, parts, copy.deepcopy(get(document, parts_of(one["from"]))))
            case "test":
                if not same(get(document, parts), one["value"]):
                    raise Refused
    if not isinstance(document, dict):
        raise Refused
    return document


@st.composite
def pointers(draw: st.DrawFn, document: Any) -> str:
    """Mostly to something that is there, or next to it."""
    parts: list[str] = []
    while isinstance(document, dict | list) and draw(st.integers(0, 3)):
        if isinstance(document, dict):
            key = draw(st.sampled_from(sorted(document)) if document else _KEYS)
            key = key if draw(st.integers(0, 4)) else draw(_KEYS)
            parts.append(key.replace("~", "~0").replace("/", "~1"))
            document = document.get(key)
        else:
            at = draw(st.integers(0, len(document)))
            parts.append("-" if not draw(st.integers(0, 4)) else str(at))
            document = document[at] if at < len(document) else None
    return "".join("/" + part for part in parts)


@st.composite
def patches(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    document = draw(_DOCUMENTS)
    operations = []
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]))
        one: dict[str, Any] = {"op": name, "path": draw(pointers(document))}
        if name in ("add", "replace", "test"):
            one["value"] = draw(_VALUES)
        if name in ("move", "copy"):
            one["from"] = draw(pointers(document))
        operations.append(one)
    return document, operations


@given(patches())
@settings(max_examples=examples(1_000, 5_000), deadline=None)
def test_a_patch_does_what_the_text_of_the_rfc_says(
    given_: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    document, operations = given_
    before = copy.deepcopy((document, operations))
    try:
        expected = plain_apply(document, operations)
    except Refused:
        with pytest.raises(Invalid) as refusal:
            apply_patch_document(document, operations)
        assert 0 <= refusal.value.detail["index"] < len(operations)
    else:
        made = apply_patch_document(document, operations)
        assert same(made, expected)
        assert state_hash(made) == state_hash(expected)
    assert (document, operations) == before, "neither is changed, whatever came of it"


@given(_DOCUMENTS, _DOCUMENTS)
@settings(max_examples=300, deadline=None)
def test_the_smaller_patch_leads_from_one_document_to_the_other(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    patch = smaller_patch(before, after)
    assert state_hash(apply_patch_document(before, patch)) == state_hash(after)
    whole = build_replace_root_patch(after)
    assert len(msgspec.msgpack.encode(patch)) <= len(msgspec.msgpack.encode(whole))


@given(_DOCUMENTS)
@settings(max_examples=300)
def test_the_quick_canonical_form_is_the_slow_one(document: dict[str, Any]) -> None:
    from hashlib import sha256

    expected = sha256(rfc8785.dumps(json.loads(json.dumps(document)))).digest()
    assert state_hash(document) == state_hash(document, plain=False) == expected


@given(
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False)
        | st.integers(-(2**63), 2**64 - 1)
        | st.sampled_from([1e21, 1e16, 9.1e15, 1e-5, 9.9e-6, 123456789012345.5, -1.5e300, 5e-324])
    ),
    st.dictionaries(st.text(st.sampled_from('aé\u20ac\ue000\U0001f600"\\\n\x7f')), st.just(1.0)),
)
@settings(max_examples=500, deadline=None)
def test_numbers_and_keys_are_written_as_ecmascript_does(
    numbers: list[Any], keys: dict[str, Any]
) -> None:
    doubles = [float(one) if isinstance(one, int) and abs(one) >= 2**53 else one for one in numbers]
    expected = rfc8785.dumps({"numbers": doubles, "keys": [keys]})
    assert canonical({"numbers": numbers, "keys": [keys]}) == expected


@pytest.mark.parametrize(
    ("document", "plain"),
    [
        ({"a": 2**53}, True), ({"a": 2**53 + 1}, False), ({"a": 1.0}, False), ({"a": True}, True),
        ({"\ue000": 1, "\U0001f600": 2}, False), ({"ключ": 1}, True),
        ({"a": [[{"b": 0.5}]]}, True), ({"a": 1e-7}, False), ({"a": -0.0}, False),
    ],
)  # fmt: skip
def test_what_is_plain_is_told_from_what_is_not(document: dict[str, Any], plain: bool) -> None:
    assert is_plain(document) is plain
    state_hash(document)


@pytest.mark.parametrize(
    ("operations", "index"),
    [
        ([{"op": "add", "path": "/a"}], 0),
        ([{"op": "append", "path": "/a", "value": "x"}], 0),
        ([{"op": "add", "path": "a", "value": 1}], 0),
        ([{"op": "add", "path": 5, "value": 1}], 0),
        ([{"op": "test", "path": "/one", "value": True}], 0),
        ([{"op": "test", "path": "/one", "value": 1}, {"op": "remove", "path": "/two"}], 1),
        ([{"op": "add", "path": "/list/-", "value": 3}, {"op": "remove", "path": "/two"}], 1),
        ([{"op": "move", "from": "/list", "path": "/list/0"}], 0),
        ([{"op": "remove", "path": ""}], 0),
        ([{"op": "replace", "path": "", "value": [1]}], 0),
        ([{"op": "add", "path": "/list/01", "value": 1}], 0),
        ([{"op": "add", "path": "/list/3", "value": 1}], 0),
        ([{"path": "/a", "value": 1}], 0),
        (["add"], 0),
        ([{"op": "add", "path": "/a" * 65, "value": 1}], 0),
    ],
)
def test_what_does_not_apply_is_named_by_its_place(operations: Any, index: int) -> None:
    document = {"one": 1, "list": [1, 2]}
    with pytest.raises(Invalid) as refusal:
        apply_patch_document(document, operations)
    assert (refusal.value.field, refusal.value.detail["index"]) == (f"patch[{index}]", index)
    assert document == {"one": 1, "list": [1, 2]}


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ({"op": "remove", "path": "/none/x"}, "there is nothing at /none"),
        ({"op": "test", "path": "/list/7", "value": 1}, "there is nothing at /list/7"),
        ({"op": "test", "path": "/text/0", "value": "a"}, "there is nothing at /text/0"),
        ({"op": "copy", "from": "/a~1b", "path": "/x"}, "there is nothing at /a~1b"),
        ({"op": "move", "from": "/list/-", "path": "/x"}, "there is nothing at /list/-"),
        ({"op": "add", "path": "/list/+1", "value": 1}, "'+1' is no place in a list"),
        ({"op": "add", "path": f"/list/{'9' * 5_000}", "value": 1},
         f"'{'9' * 120}' is no place in a list"),
        ({"op": "add", "path": "/text/0", "value": 1},
         "neither a list nor a map lies around that place"),
    ],
)  # fmt: skip
def test_a_refusal_says_where_in_few_words_and_quotes_no_document(
    operation: dict[str, Any], message: str
) -> None:
    with pytest.raises(Invalid) as refusal:
        apply_patch_document({"list": [1, 2], "text": "a long text of the document"}, [operation])
    assert refusal.value.message == message


def test_a_copy_and_what_it_was_copied_from_go_their_own_ways() -> None:
    made = apply_patch_document({"a": {"list": [1]}, "b": [{"n": 1}]}, [
        {"op": "add", "path": "/a/list/-", "value": 2},
        {"op": "copy", "from": "/a", "path": "/c"},
        {"op": "add", "path": "/a/list/-", "value": 3},
        {"op": "add", "path": "/c/list/-", "value": 4},
        {"op": "replace", "path": "/b/0/n", "value": 2},
        {"op": "copy", "from": "/b/0", "path": "/b/-"},
        {"op": "copy", "from": "", "path": "/all"},
        {"op": "replace", "path": "/b/0/n", "value": 3},
        {"op": "replace", "path": "/all/b/1/n", "value": 4},
    ])  # fmt: skip
    assert made == {
        "a": {"list": [1, 2, 3]}, "b": [{"n": 3}, {"n": 2}], "c": {"list": [1, 2, 4]},
        "all": {"a": {"list": [1, 2, 3]}, "b": [{"n": 2}, {"n": 4}], "c": {"list": [1, 2, 4]}},
    }  # fmt: skip


def test_what_a_patch_brings_is_not_changed_by_what_comes_after_it() -> None:
    operations: list[dict[str, Any]] = [
        {"op": "add", "path": "/a", "value": {"list": [1]}},
        {"op": "add", "path": "/a/list/-", "value": 2},
        {"op": "replace", "path": "/b", "value": [[]]},
        {"op": "add", "path": "/b/0/0", "value": 3},
    ]
    before = copy.deepcopy(operations)
    made = apply_patch_document({"b": 1}, operations)
    assert made == {"a": {"list": [1, 2]}, "b": [[3]]}
    assert operations == before


def test_the_same_state_again_is_stored_in_a_few_bytes() -> None:
    state = {"rows": ["x" * 100] * 1_000, "a/b": 1}
    patch = smaller_patch(state, copy.deepcopy(state))
    assert patch == [{"op": "move", "from": "/a~1b", "path": "/a~1b"}]
    assert apply_patch_document(state, patch) == state == replay_patch(state, patch)


def test_copies_that_double_again_and_again_are_refused_early() -> None:
    document = {"a": ["x" * 1_000]}
    operations = [{"op": "copy", "from": "/a", "path": "/a/-"} for _ in range(40)]
    with pytest.raises(TooLarge):
        apply_patch_document(document, operations)


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "move", "from": "/big", "path": "/to/big"},
        {"op": "add", "path": "/big/0", "value": 1},
        {"op": "remove", "path": "/big/0"},
        {"op": "copy", "from": "/some", "path": "/some"},
    ],
)
def test_a_patch_that_takes_too_long_is_refused_before_it_did(
    operation: dict[str, Any], figure: Tell
) -> None:
    document = {"big": [1] * 500_000, "some": [1] * 2_000, "to": {}}
    back = {"op": "move", "from": "/to/big", "path": "/big"}
    operations = [operation, back] if operation["op"] == "move" else [operation]
    with pytest.raises(TooLarge) as refusal:
        apply_patch_document(document, operations * (1_000 // len(operations)))
    detail = refusal.value.detail
    figure(26, "patches refused for their work", 1)
    left_ = (len(document["big"]), len(document["some"]), document["to"])
    figure(26, "of them half applied", left_ != (500_000, 2_000, {}), most=0)
    assert refusal.value.message == "the patch takes too long"
    assert detail["limit"] == CANVAS_WORK_MAX < detail["actual"] < 2_000_000
    assert detail["index"] < 100
    assert (len(document["big"]), len(document["some"]), document["to"]) == (500_000, 2_000, {})


BIG_LIST: dict[str, Any] = {"list": [0] * 900_000, "n": 0}
FRACTIONS: dict[str, Any] = {"f": [n / 7 for n in range(28_000)]}
FAILS = {"op": "test", "path": "/none", "value": 0}


@pytest.mark.parametrize(
    ("state", "patch", "index"),
    [
        (BIG_LIST, [{"op": "move", "from": "/list/0", "path": "/list/-"}] * 1_000, 3),
        (BIG_LIST, [{"op": "move", "from": "/list/0", "path": "/list/899998"}] * 1_000, 3),
        (BIG_LIST, [{"op": "copy", "from": "/list", "path": "/again"}] * 1_000, 0),
        (BIG_LIST, [{"op": "move", "from": "/list", "path": "/n/list"}], 0),
        (FRACTIONS, [{"op": "test", "path": "/f", "value": FRACTIONS["f"]}] * 9, 3),
        ({}, [{"op": "add", "path": "/a" * 60, "value": 0}] * 1_000, 0),
        (FRACTIONS,
         [*({"op": "replace", "path": f"/f/{n}", "value": n} for n in range(999)), FAILS], 999),
        ({}, [*({"op": "replace", "path": "", "value": {"n": n}} for n in range(999)), FAILS], 999),
    ],
)  # fmt: skip
def test_what_a_patch_may_take_is_bounded_before_it_is_taken(
    state: dict[str, Any], patch: list[dict[str, Any]], index: int
) -> None:
    work = _Work(limited=True)
    made: Any = state
    for place in range(index):
        before = work.done
        made = work.apply(made, patch[place], place)
        assert work.done >= before + POINTER_WORK, "each operation counts"
    assert work.done <= CANVAS_WORK_MAX
    with pytest.raises(PalyraError) as refusal:
        work.apply(made, patch[index], index)
    assert refusal.value.detail["index"] == index
    copied = sum(len(one) for one in work._own.values())
    assert copied <= ITEMS_PER_WORK * CANVAS_WORK_MAX, "what is over the limit is not begun"


def test_a_thousand_operations_fit_however_they_are_mixed() -> None:
    at = "/a" * 7
    state: dict[str, Any] = {"x": {"y": 1}}
    for _ in range(7):
        state = {"a": state, "b": [1, 2, 3]}
    for one, other in (
        ({"op": "move", "from": f"{at}/x", "path": f"{at}/z"},
         {"op": "move", "from": f"{at}/z", "path": f"{at}/x"}),
        ({"op": "copy", "from": f"{at}/x", "path": f"{at}/z"}, {"op": "remove", "path": f"{at}/z"}),
        ({"op": "add", "path": f"{at}/n", "value": 1},
         {"op": "test", "path": f"{at}/n", "value": 1}),
    ):  # fmt: skip
        apply_patch_document(state, [one, other] * 500)


def test_what_was_accepted_once_is_applied_again_whatever_it_takes() -> None:
    patch = [{"op": "add", "path": "/list/0", "value": 1}] * 100
    with pytest.raises(TooLarge):
        apply_patch_document(BIG_LIST, patch)
    assert len(apply_patch_document(BIG_LIST, patch, limited=False)["list"]) == 900_100
    fact = Fact(
        "canvas.patched", {"v": 1, "version": 2, "patch": patch, "sha256": b""}, 2, 1, 2, 1, None,
        b"s", b"e", "system", "local",
    )  # fmt: skip
    before = Canvas(1, BIG_LIST, b"", True, b"s", 1, 1, 1, None)
    after, _ = fold(before, fact, 1)
    assert after.document is not None
    assert len(after.document["list"]) == 900_100


@pytest.mark.parametrize(
    ("one", "other", "same_"),
    [
        (1, 1.0, True), (True, 1, False), (0, False, False), ([1, "a"], [1.0, "a"], True),
        ([1, [True]], [1, [1]], False), ({"a": {"b": [0]}}, {"a": {"b": [False]}}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True), ([], {}, False), (None, False, False),
        ([1], [True], False), ([True], [1], False), ("1", 1, False), (-0.0, 0, True),
    ],
)  # fmt: skip
def test_values_are_alike_as_json_has_it(one: Any, other: Any, same_: bool) -> None:
    assert alike(one, other) is alike(other, one) is same_


def test_a_state_of_a_mebibyte_is_patched_a_thousand_times_at_once() -> None:
    document = {"rows": [{"n": n, "text": "x" * 60} for n in range(12_000)]}
    operations = [
        {"op": "replace", "path": f"/rows/{n * 11}/text", "value": "y"} for n in range(1_000)
    ]
    made = apply_patch_document(document, operations)
    assert sum(row["text"] == "y" for row in made["rows"]) == 1_000


def test_documents_that_differ_everywhere_are_not_compared_to_the_end() -> None:
    before = {"list": [[n % 3, n % 7] for n in range(60_000)]}
    after = {"list": [[n % 5, n % 2] for n in range(60_000)]}
    assert smaller_patch(before, after) == build_replace_root_patch(after)
    deep: Any = "x" * 1_000_000
    for _ in range(60):
        deep = [deep]
    assert smaller_patch({"a": [deep, 1]}, {"a": [[deep], 1]}) == build_replace_root_patch(
        {"a": [[deep], 1]}
    )


def test_what_a_list_has_in_common_at_both_ends_is_no_difference() -> None:
    rows = [{"n": n} for n in range(1_000)]
    for after, patch in (
        ([{"n": -1}, *rows], [{"op": "add", "path": "/rows/0", "value": {"n": -1}}]),
        ([*rows[:500], *rows[501:]], [{"op": "remove", "path": "/rows/500"}]),
        ([*rows[:7], {"n": True}, *rows[8:]],
         [{"op": "replace", "path": "/rows/7/n", "value": True}]),
    ):  # fmt: skip
        assert smaller_patch({"rows": rows}, {"rows": after}) == patch


def test_nothing_grows_deeper_than_64_levels() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    document = {"deep": deep}
    with pytest.raises(Invalid):
        apply_patch_document(
            document, [{"op": "copy", "from": "/deep", "path": "/deep" + "/0" * 39 + "/-"}]
        )
    assert survey(document).depth == 41


SUITE = "json-patch-test-suite"


def suite_folder() -> Path | None:
    """Where npm put the public suite, if it did."""
    named = os.environ.get("PALYRA_JSON_PATCH_SUITE")
    here = Path(__file__).parents[2] / "node_modules" / SUITE
    for folder in ([Path(named)] if named else []) + [here]:
        if (folder / "tests.json").is_file():
            return folder
    return None


def test_the_public_suite_passes_completely(figure: Tell) -> None:
    folder = suite_folder()
    if folder is None:
        pytest.skip(f"npm install {SUITE}, or set PALYRA_JSON_PATCH_SUITE to its folder")
    ran = 0
    for name in ("tests.json", "spec_tests.json"):
        for case in json.loads((folder / name).read_text("utf-8")):
            if case.get("disabled") or "patch" not in case:
                continue
            # a canvas is a map: each case lies one level deeper here
            patch = [
                {k: "/doc" + v if k in ("path", "from") and isinstance(v, str) else v
                 for k, v in one.items()}
                for one in case["patch"]
            ]  # fmt: skip
            document = {"doc": case["doc"]}
            ran += 1
            if "error" in case:
                with pytest.raises(PalyraError):
                    apply_patch_document(document, patch)
            elif patch:
                made = apply_patch_document(document, patch)
                if "expected" in case:
                    assert same(made, {"doc": case["expected"]}), case
    figure(26, "cases of the public suite passed", ran)
    assert ran > 80


@pytest.mark.parametrize(
    ("state", "source", "target", "moved"),
    [
        ({"a": [0, 5, {}]}, "/a/0", "/a/1/x", {"a": [5, {"x": 0}]}),
        ({"a": [0, 5, []]}, "/a/0", "/a/1/0", {"a": [5, [0]]}),
        ({"a": [0, {"m": 1}, {"m": 2}]}, "/a/0", "/a/1/x", {"a": [{"m": 1}, {"m": 2, "x": 0}]}),
        ({"a": [0, {"m": 1}]}, "/a/0", "/a/0/x", None),
        ({"a": [0, {"m": 1}]}, "/a/0", "/a/1/x", None),
        ({"a": [0, 1]}, "/a/1", "/a/1", {"a": [0, 1]}),
        ({"a": {"b": 1}}, "/a", "/a/b", None),
        ({"a": [{"b": {}}]}, "/a/0", "/a/0/b/c", None),
    ],
)
def test_a_move_finds_its_target_once_the_value_is_gone(
    state: dict[str, Any], source: str, target: str, moved: dict[str, Any] | None
) -> None:
    patch = [{"op": "move", "from": source, "path": target}]
    before = json.dumps(state)
    if moved is None:
        with pytest.raises(Invalid):
            apply_patch_document(state, patch)
    else:
        assert apply_patch_document(state, patch) == moved
    assert json.dumps(state) == before
