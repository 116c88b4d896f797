"""The actors' part of the hot path, compiled (`_swift_appends.c`) where a compiler was at hand.

Its twins, which say what it means and run where it is missing, are what `Desk.serve` does with each
frame, `Appends.write` with `SessionActor.hand_append`, `group.lay_out_plainly` and
`answers.answer_plainly`; `tests/actors/test_swift.py` holds them equal.
"""

from typing import Any

from palyra_actors.actors.admission import Account
from palyra_actors.actors.entity import Entity
from palyra_actors.actors.work import Nobody, Portion, Request, Tail, Tally, Unit
from palyra_actors.runtime.mailbox import Mailbox

try:
    from palyra_actors.actors import _swift_appends
except ImportError:  # no compiler when it was installed, or none for this Python
    compiled: Any = None
else:
    compiled = _swift_appends if _swift_appends.VERSION == 3 else None
    if compiled is not None:
        blank = Request(Nobody(), None, 0.0, Tally())
        compiled.setup(Request, Unit, Portion, Tail, Entity, Mailbox, Account, blank)
