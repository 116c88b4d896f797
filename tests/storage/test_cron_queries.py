"""A job that has run a million times wakes as quickly as a new one: how its rows are found."""

from typing import Any

import apsw
import pytest

from palyra_actors.storage.migrations import migrate
from palyra_actors.storage.queries import sql

DUE = {"wake": 0, "stream": 0, "target": 1, "limit": 1}


@pytest.mark.parametrize(
    ("statement", "parameters", "wanted"),
    [
        ("cron.open_runs", (1,), ["cron_runs USING INDEX cron_runs_open (stream=?)"]),
        ("cron.untaken", (), ["r USING INDEX cron_runs_open"]),
        (
            "cron.due", DUE,
            ["j USING INDEX cron_jobs_by_wake", "r USING INDEX cron_runs_open (stream=?)"],
        ),
        ("cron.run", (b"",), ["r USING COVERING INDEX cron_runs_by_id"]),
    ],
)  # fmt: skip
def test_what_waking_looks_up_is_found_without_going_through_the_runs_of_before(
    statement: str, parameters: Any, wanted: list[str]
) -> None:
    connection = apsw.Connection(":memory:")
    migrate(connection, "")
    explained = connection.execute(f"EXPLAIN QUERY PLAN {sql(statement)}", parameters)
    plan = [str(row[3]) for row in explained]
    for index in wanted:
        assert any(index in step for step in plan), plan
    assert not [step for step in plan if "PRIMARY KEY (stream=?)" in step]
