"""A principal's upkeep is as quick beside a million memories of others as without."""

from typing import Any

import apsw
import pytest

from palyra_actors.actors.clerks.memory_upkeep import due
from palyra_actors.actors.clerks.remembering import Retention
from palyra_actors.storage.journal import JournalReader
from palyra_actors.storage.migrations import migrate
from palyra_actors.storage.queries import sql

OTHERS, OWN = 1, 2
NOW_MS = 1_000


@pytest.fixture
def connection() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    migrate(connection, "")
    return connection


@pytest.mark.parametrize(
    ("statement", "parameters", "wanted"),
    [
        ("memory.without_vector_in", (1, OWN, 0, 10), "memory_in_scope (stream=? AND rowid>?)"),
        (
            "memory.due",
            (OWN, NOW_MS, 10),
            "memory_due (stream=? AND expires_ms>? AND expires_ms<?)",
        ),
        ("memory.superseded", (OWN, 10), "(stream=?"),
        ("memory.oldest", (OWN, 10), "memory_in_scope (stream=?)"),
    ],
)
def test_upkeep_of_a_scope_looks_at_no_other(
    connection: apsw.Connection, statement: str, parameters: Any, wanted: str
) -> None:
    explained = connection.execute(f"EXPLAIN QUERY PLAN {sql(statement)}", parameters)
    plan = [str(row[3]) for row in explained]
    assert any(wanted in step for step in plan), plan
    assert not [step for step in plan if step.startswith("SCAN") or "TEMP B-TREE" in step], plan


def test_what_is_over_of_others_hides_nothing_of_ones_own(connection: apsw.Connection) -> None:
    connection.executemany(sql("memory.scope"), [(OTHERS, "many"), (OWN, "one")]).fetchall()
    rows = [
        (seq, stream, seq.to_bytes(16), seq.to_bytes(16), None, None, 1, 0, expires_ms, None, 1, 1)
        for seq, stream, expires_ms in [*((n, OTHERS, n) for n in range(1, 100)), (100, OWN, 500)]
    ]
    connection.executemany(sql("memory.insert"), rows).fetchall()
    keep_all = Retention(0, 0, 0, 0, 0, "")
    (drop,) = due(JournalReader(connection), keep_all, "one", NOW_MS, 10)
    assert (drop.owner, drop.memory_ids) == ("one", [(100).to_bytes(16)])
    assert (
        sum(
            len(one.memory_ids)
            for one in due(JournalReader(connection), keep_all, None, NOW_MS, 10)
        )
        == 10
    )
