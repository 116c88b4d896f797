"""Errors: what the caller does next, and the way over the wire and back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra_actors.errors import (
    WIRE_ERRORS,
    Broken,
    Conflict,
    InternalFault,
    Invalid,
    NoReply,
    Overloaded,
    PalyraError,
    Refused,
    StorageUnavailable,
    TooLarge,
    Unavailable,
    from_wire,
)

# The table of the wire contract, part 3.
CONTRACT = {
    "malformed": False,
    "unsupported_version": False,
    "unknown_op": False,
    "invalid": False,
    "invalid_id": False,
    "too_large": False,
    "not_found": False,
    "conflict": False,
    "id_reused": False,
    "invalid_transition": False,
    "limit_reached": False,
    "gone": False,
    "denied": False,
    "overloaded": True,
    "unavailable": True,
    "internal": True,
}


def test_the_codes_and_what_is_retryable_are_those_of_the_contract() -> None:
    assert {code: kind.retryable for code, kind in WIRE_ERRORS.items()} == CONTRACT


@pytest.mark.parametrize("code", CONTRACT)
def test_every_error_belongs_to_one_family(code: str) -> None:
    kind = WIRE_ERRORS[code]
    assert sum(issubclass(kind, family) for family in (Refused, Unavailable, Broken)) == 1
    assert issubclass(kind, Refused) is not CONTRACT[code]


@given(
    st.sampled_from(sorted(CONTRACT)),
    st.text(),
    st.fixed_dictionaries(
        {
            "field": st.none() | st.text(min_size=1),
            "hint": st.none() | st.text(min_size=1),
            "retry_after_ms": st.none() | st.integers(0),
            "detail": st.dictionaries(st.text(), st.integers() | st.text() | st.none()),
        }
    ),
)
def test_comes_back_from_the_wire_as_it_was_sent(
    code: str, message: str, fields: dict[str, Any]
) -> None:
    sent = WIRE_ERRORS[code](message, **fields)
    received = from_wire(sent.to_wire())
    assert type(received) is type(sent)
    assert received.to_wire() == sent.to_wire()
    assert {name: getattr(received, name) for name in fields} == fields


def test_fields_that_do_not_apply_are_left_out() -> None:
    assert Invalid("no").to_wire() == {"code": "invalid", "message": "no", "retryable": False}


def test_a_retry_after_of_zero_is_still_sent() -> None:
    assert Overloaded("full", retry_after_ms=0).to_wire()["retry_after_ms"] == 0


@pytest.mark.parametrize(("retryable", "family"), [(True, Unavailable), (False, Refused)])
def test_an_unknown_code_becomes_the_family_it_belongs_to(
    retryable: bool, family: type[PalyraError]
) -> None:
    received = from_wire({"code": "brand_new", "message": "?", "retryable": retryable})
    assert type(received) is family
    assert received.message == "?"


@pytest.mark.parametrize("err", [{}, {"code": None}, {"code": "invalid", "detail": "text"}])
def test_a_broken_err_map_still_becomes_an_error(err: dict[str, object]) -> None:
    assert isinstance(from_wire(err), Refused)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Invalid("x"), "none"),
        (StorageUnavailable("x"), "none"),
        (StorageUnavailable("x", detail={"outcome": "unknown"}), "unknown"),
        (InternalFault("x", detail={"outcome": "unknown"}), "unknown"),
        (InternalFault("x", detail={"outcome": "none"}), "none"),
        (NoReply("x"), "unknown"),
    ],
)
def test_the_outcome_is_unknown_only_where_the_error_says_so(
    error: PalyraError, outcome: str
) -> None:
    assert error.outcome == outcome


def test_no_reply_is_never_sent_by_an_engine() -> None:
    assert NoReply.code not in WIRE_ERRORS
    assert NoReply.retryable


def test_an_error_reads_as_code_message_place_and_hint() -> None:
    error = Conflict("seq is 4", field="expected_session_seq", hint="read again")
    assert str(error) == "conflict: seq is 4 [expected_session_seq] (read again)"


def test_detail_is_a_copy_of_what_was_handed_in() -> None:
    detail = {"limit": 1}
    error = TooLarge("x", detail=detail)
    detail["limit"] = 2
    assert error.detail == {"limit": 1}
