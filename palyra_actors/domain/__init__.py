"""What things mean, and nothing else: no disk, no socket, no thread, no clock.

Every entity follows one path. A command asks; `decide(state, command)` answers with what will be
written or raises a refusal; `evolve(state, events)` folds what is written into the next state.
Replaying a journal through `evolve` gives the same state twice.
"""
