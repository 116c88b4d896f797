"""Every operation that this engine has, by its name on the wire."""

from typing import Any, Final

import msgspec

from palyra_actors.wire import approval, canvas, cron, memory, messages, session
from palyra_actors.wire.messages import Body, Envelope

BODIES: Final[dict[str, type[Body]]] = {
    **messages.BODIES,
    **session.BODIES,
    **approval.BODIES,
    **canvas.BODIES,
    **cron.BODIES,
    **memory.BODIES,
}


def envelope_types() -> dict[str, type[Envelope]]:
    """For each operation, an envelope with its body: a frame is decoded and checked in one go."""
    types: dict[str, Any] = {}
    for op, body in BODIES.items():
        if any(field.required for field in msgspec.structs.fields(body)):
            fields: list[Any] = [("body", body)]
        else:
            fields = [("body", body, msgspec.field(default_factory=body))]
        types[op] = msgspec.defstruct(
            op.replace(".", "_"), fields, bases=(Envelope,), tag_field="op", tag=op, gc=False,
            kw_only=True,
        )  # fmt: skip
    return types
