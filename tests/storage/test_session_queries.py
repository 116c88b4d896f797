"""The full-text index of sessions knows whose they are, and which are archived."""

from typing import Any

import apsw
import pytest

from palyra_actors.domain.session_commands import owner_word
from palyra_actors.storage.migrations import migrate, migrations
from palyra_actors.storage.queries import sql

OPEN, ARCHIVED = 1, 2


def put(connection: apsw.Connection, stream: int, status: int) -> None:
    row: Any = (
        stream, bytes([stream]) * 16, "alice", None, "a title", status, None, None, 0, 0, 0, None,
        0, 0,
    )  # fmt: skip
    connection.execute(sql("session.insert"), row)
    connection.execute(
        "INSERT INTO session_texts (rowid, owner, words)"
        " SELECT stream, 'o' || hex(owner), title FROM sessions WHERE stream = ?",
        (stream,),
    )


def found(connection: apsw.Connection, match: str) -> list[Any]:
    asked = "SELECT rowid FROM session_texts WHERE session_texts MATCH ? ORDER BY rowid"
    return [row[0] for row in connection.execute(asked, (match,))]


@pytest.mark.parametrize("before", [16, 17])
def test_archived_sessions_are_known_to_the_index_also_those_that_were_before(before: int) -> None:
    connection = apsw.Connection(":memory:")
    migrate(connection, "", migrations()[:before])
    put(connection, 1, OPEN)
    put(connection, 2, ARCHIVED)
    put(connection, 3, OPEN)
    migrate(connection, "")
    for _ in range(2):
        for stream in (2, 3) if before == 17 else (3,):
            connection.execute(sql("session.archive"), (stream,))
            connection.execute(sql("session.index_archived"), (stream,))
    both = f'owner : "{owner_word("alice")}" AND words : "title"'
    assert found(connection, f'owner : "archived" AND {both}') == [2, 3]
    assert found(connection, f'({both}) NOT owner : "archived"') == [1]
    assert found(connection, 'words : "archived"') == []
    connection.execute(sql("session.unindex"), (2,))
    connection.execute(sql("session.index"), ("another", 2))
    assert found(connection, 'owner : "archived" AND words : "another"') == [2]
    owners = connection.execute("SELECT owner FROM session_texts ORDER BY rowid").fetchall()
    assert [str(owner).count("archived") for (owner,) in owners] == [0, 1, 1]
