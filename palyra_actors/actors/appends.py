"""Appends, from what was decoded to the entities: sealed, named, and handed out.

    Written ──plain──▶ its session              (the usual one: nothing is left to check)
       └─ suspicious ──sealed──▶ its session
    decoded ──sealed, checked──▶ its sessions, each its share

The payloads of a round are looked through for secrets together: one look costs as much for one
payload as for thirty.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from palyra_actors.actors.directory import Directory
from palyra_actors.actors.entity import PENDING_UNITS_MAX, take_back
from palyra_actors.actors.session import SessionActor
from palyra_actors.actors.swift import compiled
from palyra_actors.actors.work import Portion, Request, Unit
from palyra_actors.domain.catalog import kind_name
from palyra_actors.domain.payload import Sealer, same_content
from palyra_actors.domain.session import Append, Draft, append
from palyra_actors.domain.swift import Written
from palyra_actors.domain.swift import compiled as compiled_domain
from palyra_actors.errors import IdReused, Invalid, Overloaded, PalyraError, TooLarge
from palyra_actors.runtime.mailbox import MailboxFull
from palyra_actors.wire.append import check_count, drafts_of
from palyra_actors.wire.messages import AppendBody, EventIn

RETRY_AFTER_MS: Final = 25

go_on: Final[Any] = None if compiled_domain is None else compiled_domain.go_on


class Appends:
    """Serves appends. Lives in the loop's thread, with the desk whose room it is."""

    def __init__(self, directory: Directory, submit: Callable[[Sequence[Unit]], None]) -> None:
        self._directory = directory
        self._submit = submit
        self._with = (
            Written, Append, AppendBody.roles, SessionActor, *directory.awake(), go_on,
        )  # fmt: skip
        self._sealer = Sealer()
        self._plain = False  # nothing in any payload of the round is suspicious

    def look(self, messages: Sequence[Any]) -> None:
        """Before a round is served: look through the payloads of all that were read whole."""
        self._plain = False  # whatever comes now, it is not known of these
        written = [message for message in messages if type(message) is Written]
        self._plain = bool(written) and self._sealer.nothing_in(
            b"".join([one.payloads for one in written]), any(one.odd_tokens for one in written)
        )

    def hand_out(self, requests: list[tuple[Request, Any, bytes]], start: int) -> int:
        """Serve those that are usual, from `start` on; where one stands that is not.

        Usual is an append that was read whole, in a round that holds no secret, to a session that
        is awake and goes on with it: see `SessionActor.hand_append`.
        """
        if compiled is None or go_on is None or not self._plain:
            return start
        units: list[Unit] = []
        now = self._directory.now
        at: int = compiled.hand_out(requests, start, units, now, PENDING_UNITS_MAX, self._with)
        try:
            if units:
                self._submit(units)
        except BaseException as error:  # noqa: BLE001 - as in a turn of each session's own
            for portion in [unit.portions[0] for unit in units]:
                portion.entity.failed(portion, error)
        return at

    def write(self, request: Request, written: Written) -> None:
        """Serve one that was read whole. Raises what `Sealer.seal` and the session do."""
        drafts = written.drafts
        if not (self._plain or self._sealer.nothing_in(written.payloads, written.odd_tokens)):
            kinds = [kind_name(draft.kind) for draft in drafts]
            sealed = self._sealer.seal([draft.payload for draft in drafts], kinds)
            drafts = [
                draft._replace(payload=payload, redacted=redacted)
                for draft, (payload, redacted) in zip(drafts, sealed, strict=True)
            ]
        unit = Unit(request, len(drafts), len(written.payloads))
        said = (drafts, written.expected_seq, written.run_ids, written.ends)
        self._hand_out_one(unit, written.session_id, tuple.__new__(Append, said))

    def check_and_write(self, request: Request, body: AppendBody) -> None:
        """Serve one that has to be looked at event by event."""
        events = body.events
        count = len(events)
        check_count(count)
        sealed = self._sealer.seal(
            [bytes(event.payload) for event in events], [event.kind for event in events]
        )
        drafts, run_ids, ends = drafts_of(events, sealed)
        unit = Unit(request, count, sum(len(draft.payload) for draft in drafts))
        expected = body.expected_session_seq
        first_session = events[0].session_id
        if all(event.session_id == first_session for event in events) and (
            count == 1 or len({draft.event_id for draft in drafts}) == count
        ):
            self._hand_out_one(unit, first_session, Append(drafts, expected, run_ids, ends))
            return
        places = _first_places(unit, events, drafts)
        shares: dict[str, list[int]] = {}
        for place in places:
            shares.setdefault(events[place].session_id, []).append(place)
        if expected is not None and len(shares) > 1:
            raise Invalid(
                "expected_session_seq needs all events in one session",
                field="expected_session_seq",
                hint="leave it out, or send one request a session",
            )
        self._hand_out(unit, shares, drafts, expected)

    def _hand_out_one(self, unit: Unit, session_id: str, command: Append) -> None:
        """The usual request: all of it is one session's."""
        directory = self._directory
        directory.begin_request()
        session = directory.session(session_id, "events[0].session_id")
        drafts = command.drafts
        portion = Portion(unit, session, session.stream_id, command, range(len(drafts)), drafts)
        unit.portions.append(portion)
        unit.left = 1
        try:
            session.hand_append(portion)
        except MailboxFull as full:
            raise _behind(unit, full) from full

    def _hand_out(
        self,
        unit: Unit,
        shares: Mapping[str, list[int]],
        drafts: list[Draft],
        expected: int | None,
    ) -> None:
        """Give each session its share, in one go: what comes later comes after it everywhere."""
        directory = self._directory
        if len(shares) > directory.resident_max:
            raise TooLarge(
                f"one request names at most {directory.resident_max} sessions",
                field="events",
                hint="send one request a session, or raise actors.resident_max",
                detail={"limit": directory.resident_max, "actual": len(shares)},
            )
        directory.begin_request()
        try:
            for session_id, places in shares.items():
                session = directory.session(session_id, f"events[{places[0]}].session_id")
                own = append([drafts[place] for place in places], expected)
                unit.portions.append(
                    Portion(unit, session, session.stream_id, own, places, own.drafts)
                )
        except PalyraError:
            unit.settle()  # nobody has heard of it yet
            raise
        unit.left = len(unit.portions)
        portions = unit.portions
        try:
            for portion in portions:
                portion.entity.hand(portion)
        except MailboxFull as full:
            refusal = _behind(unit, full)
            take_back(portions)  # they hold back for the others
            raise refusal from full


def _behind(unit: Unit, full: MailboxFull) -> Overloaded:
    unit.settle()
    return Overloaded(
        f"the session is behind: {full}", hint="come back later", retry_after_ms=RETRY_AFTER_MS
    )


def _first_places(unit: Unit, events: list[EventIn], drafts: list[Draft]) -> list[int]:
    """The places of all events but those that say one again. Raises IdReused: they differ."""
    first: dict[bytes, int] = {}
    repeats: dict[int, int] = {}
    for index, draft in enumerate(drafts):
        earlier = first.setdefault(draft.event_id, index)
        if earlier == index:
            continue
        before = drafts[earlier]
        if (
            events[index].session_id != events[earlier].session_id
            or draft._replace(payload=b"") != before._replace(payload=b"")
            or not same_content(draft.payload, before.payload)
        ):
            raise IdReused(
                f"events[{earlier}] has the same id and other content",
                field=f"events[{index}].event_id",
                hint="give every event an id of its own",
            )
        repeats[index] = earlier
    unit.repeats = repeats
    return [index for index in range(len(drafts)) if index not in repeats]
