"""A page of somebody's approvals is as quick beside many others' as without."""

from typing import Any

import apsw
import pytest

from palyra_actors.storage.migrations import migrate, migrations
from palyra_actors.storage.queries import sql

ASKED = {
    "owner": "alice", "subject_id": "rm", "decision": "deny", "stored": "deny", "after": 0,
    "through": 100, "subject_type": None, "since_ms": None, "until_ms": None, "limit": 10,
}  # fmt: skip
SEQS = "seq>? AND seq<?)"


@pytest.fixture
def connection() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    migrate(connection, "")
    return connection


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        ("approval.page", f"approvals_by_seq ({SEQS}"),
        ("approval.page_by_subject", f"approvals_of_subject (subject_id=? AND {SEQS}"),
        ("approval.page_by_decision", f"approvals_of_decision (decision=? AND {SEQS}"),
        ("approval.page_of_owner", f"approvals_of_owner (owner=? AND {SEQS}"),
        (
            "approval.page_of_owner_by_subject",
            f"approvals_of_owner_subject (owner=? AND subject_id=? AND {SEQS}",
        ),
        (
            "approval.page_of_owner_by_decision",
            f"approvals_of_owner_decision (owner=? AND decision=? AND {SEQS}",
        ),
        ("approval.count_of_owner", "approvals_of_owner (owner=? AND seq<?)"),
    ],
)
def test_a_page_looks_at_what_it_shows(
    connection: apsw.Connection, statement: str, wanted: str
) -> None:
    explained = connection.execute(f"EXPLAIN QUERY PLAN {sql(statement)}", ASKED)
    plan = [str(row[3]) for row in explained]
    assert any(wanted in step for step in plan), plan
    assert not [step for step in plan if step.startswith("SCAN") or "TEMP B-TREE" in step], plan


def test_approvals_get_their_owners_also_those_that_were_there() -> None:
    connection = apsw.Connection(":memory:")
    migrate(connection, "", migrations()[:15])
    connection.execute("INSERT INTO principals (principal, name) VALUES (1, 'alice'), (2, 'ben')")
    for stream, principal in ((7, 1), (8, 2)):
        connection.execute(sql("insert_stream"), (stream, 1, bytes([stream]) * 16, principal, 0))
        row: Any = (
            stream,
            bytes([stream]) * 16,
            "",
            None,
            None,
            1,
            None,
            None,
            *[0] * 3,
            None,
            0,
            0,
        )
        connection.execute(sql("session.insert"), row)
    connection.execute(
        "INSERT INTO approvals (approval_id, stream, seq, subject_type, subject_id, summary,"
        " requested_ms) VALUES (x'01', 7, 3, 't', 'rm', 's', 0), (x'02', 8, 4, 't', 'rm', 's', 0)"
    )
    migrate(connection, "", migrations()[:16])
    connection.execute(
        sql("approval.insert"), (b"a" * 16, 7, 5, None, "t", "rm", "s", None, None, 0, None)
    )
    for statement in ("approval.page_of_owner", "approval.page_of_owner_by_subject"):
        found = connection.execute(sql(statement), {**ASKED, "decision": None}).fetchall()
        assert [(each[17], each[19]) for each in found] == [("alice", 3), ("alice", 5)]
    none = {**ASKED, "owner": "nobody", "decision": None}
    assert connection.execute(sql("approval.page_of_owner"), none).fetchall() == []
