"""An engine that forgets how far its jobs have come, for the control of their kill campaign.

As long as it lives it does all as it should. After a kill it takes up each job where it was made:
whoever looks for ticks that ran twice has to find them.
"""

import argparse
import signal
import threading

from palyra_actors.actors.scheduler import Scheduler
from palyra_actors.engine import Engine
from palyra_actors.storage import queries


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--db", required=True)
    parser.add_argument("--endpoint", required=True)
    options = parser.parse_args()
    statements = queries._statements()
    statements["cron.save"] += " AND runs = 0 AND last_ms < 0 AND next_ms IS NULL"
    statements["cron.put_run"] = statements["cron.put_run"].replace("INSERT", "INSERT OR IGNORE", 1)
    Scheduler.up_since_ms = lambda _: 0  # type: ignore[assignment, method-assign]  # it was never gone
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    with Engine.open(options.db) as engine:
        print(f"ready endpoint={engine.serve(options.endpoint)}", flush=True)  # noqa: T201
        leave.wait()


if __name__ == "__main__":
    main()
