"""Actors that share threads: the only floor that knows pykka.

`mailbox` holds an actor's messages and its turn, `dispatcher` gives turns to threads, `actor` is
the pykka actor that both serve, `supervisor` decides what a failure means.

pykka's own words keep their meaning: `Class.start(…)`, `ref.tell`, `ref.ask`, `ref.proxy()`,
`ref.stop()`. What differs is the policy: a mailbox has a bound, an exception is a supervisor's
business and never the end of all actors, and ten thousand actors cost no thread.
"""
