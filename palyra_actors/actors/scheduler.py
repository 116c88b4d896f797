"""Wakes every job when something about it is due, the engine's own too, and nobody else.

    file, by `wake_ms` ──the next minute's──▶ heap ──due──▶ Wake, one at a time a job,
                                               ▲             │  a slice of jobs together
                                               │             │ written: its next moment
                                               └─────────────┘

A job's next moment (a tick, a retry, a lease's end) stands in its row. What is due within the next
minute or so is kept in a heap; the rest is left in the file, so that a hundred thousand jobs that
are known cost nothing while they wait. There is one timer, to the first moment of the heap, and at
most a second away: that is when a wall clock that was set is noticed. A `Wake` that nothing is due
for does nothing, so it does no harm to wake a job in vain.

A job that is due again by the time it has been woken is **behind**. Jobs that are due more often
than the machine can start them would take all of the loop, so those that are behind have a line of
their own, and while clients write one slice of it is under way at a time, of a few milliseconds,
and the next one waits for as long as that one took. What a job does not come to in time its
policies account for. The others are woken before them, as they fall due.

The engine's own jobs (`rota`) have their turn by the same timer.

Moments are wall time. A clock that is set forward makes ticks late, as if the engine had slept; one
that is set back makes jobs wait until it has come to their next instant again: no instant has two
ticks.
"""

import heapq
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

from palyra_actors.actors.cron import Ahead
from palyra_actors.actors.pace import Pace
from palyra_actors.actors.rota import Rota
from palyra_actors.errors import PalyraError, Unavailable
from palyra_actors.runtime.actor import PooledActor
from palyra_actors.runtime.dispatcher import Loop, Timer
from palyra_actors.storage.port import ReadSide, StreamRow

log = logging.getLogger(__name__)

HORIZON_MS: Final = 60_000
"""How far ahead the file is read; again when half of that is over."""

PAGE: Final = 500
"""Rows that are read at once, and taken in: about a millisecond of the loop."""

LOADED_MAX: Final = 100_000
"""Moments kept beside those that were written since; further ones are read when there is room."""

AHEAD_MAX: Final = 20_000
"""Jobs of which more than the moment is kept, about a kilobyte each."""

LOOK_S_MAX: Final = 1.0
WAKES_AT_ONCE_MAX: Final = 128
"""Jobs that are being woken: two groups of a few milliseconds, which is what others wait for; one
gathers while the other is committed."""

SLICE_MAX: Final = 16
"""Jobs that are woken by one unit of work; the time is looked at after each."""

TURN_S: Final = 0.002
WAKES_A_TURN_MAX: Final = 64
"""Then whoever else has something to do comes first."""

AGAIN_S: Final = 0.1
AGAIN_S_MAX: Final = 60.0
"""When a job that could not be woken is tried again: twice as late each time, up to this."""

UNAVAILABLE_S_MAX: Final = 5.0
"""Up to this where it is not the job's fault: a disk that was full is soon well again."""


BEHIND_S_MAX: Final = 0.1
"""For how long at most those that are behind wait for clients who write, after a slice."""


class Moment(NamedTuple):
    """A job, when it is to be woken, and what has to be known of it then."""

    wake_ms: int
    owner: str
    name: str
    ahead: Ahead | None = None
    """What it may wake from, as the file said it then."""


Due: TypeAlias = tuple[bytes, Moment]
Done: TypeAlias = Callable[[bytes, Moment, Mapping[str, Any] | PalyraError], None]


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    """`ahead`: moments in the heap. `failing`: jobs that could not be woken the last time.
    `behind`: jobs that were due again when they had been woken the last time."""

    ahead: int
    under_way: int
    failing: int
    behind: int
    woken: int
    clock_steps: int


class Look:
    """Something may be due."""


class Scheduler(PooledActor):
    """`ask` has a reader look something up and passes on what it found; `wake` has jobs do what is
    due and passes on each one's answer, or the error. All of it in the loop's thread. `in_company`:
    clients write. `wakes_jobs`: the engine's own have their turn in any case.
    """

    listed: ClassVar[bool] = False

    def __init__(
        self,
        loop: Loop,
        ask: Callable[[Callable[[ReadSide], Any], Callable[[Any], None]], None],
        wake: Callable[[Sequence[Due], Done], None],
        rota: Rota,
        in_company: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(loop)
        self.wakes_jobs = True
        self._rota = rota
        rota.changed = self.tell
        self._loop = loop
        self._ask = ask
        self._wake = wake
        self._moments: dict[bytes, Moment] = {}
        self._heap: list[tuple[int, bytes]] = []
        self._position = (-1, 0)  # all rows up to this moment and stream were read
        self._target_ms = -1  # everything that is due up to here is read, or being read
        self._read_ms = -1  # everything that is due up to here is read
        self._reading = False
        self._under_way: set[bytes] = set()
        self._failures: dict[bytes, int] = {}
        self._in_company = in_company
        self._behind: set[bytes] = set()
        self._line: deque[tuple[int, bytes]] = deque()  # of those that are behind, and due
        self._line_under_way = 0
        self._line_goes_on = -inf  # when the next slice of it may be woken
        self._pace = Pace(SLICE_MAX // 2, SLICE_MAX)
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._told = self._rests = False
        self._offset_ms = self._offset()
        self._woken = self._steps = 0
        self.started_at = loop.clock.monotonic()

    # -- calls of others, on the loop's thread ----------------------------------------------------

    def tell(self) -> None:
        """Look at what is due, in a turn of its own."""
        if not self._told:
            self._told = True
            self.actor_ref.tell(Look())

    def written(
        self,
        job_id: bytes,
        wake_ms: int | None,
        owner: str,
        name: str,
        ahead: Callable[[], Ahead | None] = lambda: None,
    ) -> None:
        """A job changed, durably: this is its next moment."""
        if wake_ms is None or wake_ms > self._target_ms:
            self._behind.discard(job_id)
            self._moments.pop(job_id, None)  # the file knows
            return
        kept = ahead() if len(self._moments) < AHEAD_MAX else None
        self._keep(job_id, Moment(wake_ms, owner, name, kept))

    def rest(self) -> None:
        """The engine stops: no job is woken any more, nor one of the engine's own. What is under
        way ends; what is due, the next start finds in the file."""
        self._rests = True

    def statistics(self) -> SchedulerStatistics:
        return SchedulerStatistics(
            len(self._moments), len(self._under_way), len(self._failures), len(self._behind),
            self._woken, self._steps,
        )  # fmt: skip

    def up_since_ms(self) -> int:
        """Since when the engine has been running, by the wall clock as it is now."""
        clock = self._loop.clock
        return clock.wall_ms() - int((clock.monotonic() - self.started_at) * 1000)

    # -- its life ---------------------------------------------------------------------------------

    def on_receive(self, message: Any) -> None:
        del message
        self._told = False
        self._look()

    def on_failed(self, message: Any, error: BaseException) -> None:
        """Look again in a while, whatever it was."""
        del message, error
        self._told = False
        self._loop.call_later(LOOK_S_MAX, self.tell)

    def _look(self) -> None:
        if self._rests:
            return
        self._notice_steps()
        self._rota.turn()
        if not self.wakes_jobs:
            self._set_timer(None)
            return
        now_ms = self._loop.clock.wall_ms()
        if now_ms + HORIZON_MS // 2 > self._target_ms and not self._reading:
            self._read_on(now_ms + HORIZON_MS)
        heap = self._heap
        monotonic = self._loop.clock.monotonic
        woken, ends = 0, monotonic() + TURN_S
        while woken < WAKES_A_TURN_MAX and monotonic() <= ends:
            due = self._due(now_ms)
            if not due:
                break
            woken += len(due)
            self._wake(due, self._done)
        self._wake_behind()
        if heap and heap[0][0] <= now_ms:
            if len(self._under_way) < WAKES_AT_ONCE_MAX:
                self._loop.call_soon(self.tell)
            return  # or an answer comes, and then it is looked again
        self._set_timer(heap[0][0] - now_ms if heap else None)

    def _due(self, now_ms: int) -> list[Due]:
        """The next slice of those that are due; who failed the last time stands alone, so that
        nobody else waits for it."""
        heap = self._heap
        due: list[Due] = []
        room = min(SLICE_MAX, WAKES_AT_ONCE_MAX - len(self._under_way))
        while len(due) < room and heap and heap[0][0] <= now_ms:
            wake_ms, job_id = heap[0]
            if not self._stands(wake_ms, job_id):
                heapq.heappop(heap)
                continue
            if job_id in self._behind:
                self._line.append(heapq.heappop(heap))
                continue
            alone = job_id in self._failures
            if alone and due:
                break
            heapq.heappop(heap)
            due.append(self._begin(job_id))
            if alone:
                break
        self._woken += len(due)
        return due

    def _stands(self, wake_ms: int, job_id: bytes) -> bool:
        """Whether it is still due then: it was not moved, and no answer of it will say."""
        moment = self._moments.get(job_id)
        return moment is not None and moment.wake_ms == wake_ms and job_id not in self._under_way

    def _begin(self, job_id: bytes) -> Due:
        self._under_way.add(job_id)
        return job_id, self._moments.pop(job_id)

    def _wake_behind(self) -> None:
        """The next slice of those that are behind, if it is their turn."""
        began = self._loop.clock.monotonic()
        most = 0 if self._in_company() else SLICE_MAX
        if self._line_under_way > most or began < self._line_goes_on:
            return
        line = self._line
        due: list[Due] = []
        while line and len(due) < self._pace.size:
            wake_ms, job_id = line.popleft()
            if self._stands(wake_ms, job_id):
                due.append(self._begin(job_id))
        if not due:
            return
        self._woken += len(due)
        self._line_under_way += len(due)
        full = len(due) == self._pace.size
        self._wake(due, partial(self._caught_up, began))
        if full:
            self._pace.took(self._loop.clock.monotonic() - began)

    def _caught_up(
        self,
        began: float,
        job_id: bytes,
        moment: Moment,
        answer: Mapping[str, Any] | PalyraError,
    ) -> None:
        """One of a slice of those that were behind has been woken."""
        self._line_under_way -= 1
        if not self._line_under_way and self._in_company():
            ended = self._loop.clock.monotonic()
            rest_s = min(ended - began, BEHIND_S_MAX)
            self._line_goes_on = ended + rest_s
            self._loop.call_later(rest_s, self.tell)
        self._done(job_id, moment, answer)

    def _done(self, job_id: bytes, moment: Moment, answer: Mapping[str, Any] | PalyraError) -> None:
        self._under_way.discard(job_id)
        self._behind.discard(job_id)
        if isinstance(answer, PalyraError):
            self._again_later(job_id, moment, answer)
        else:
            self._failures.pop(job_id, None)
            wake_ms = answer["wake_ms"]
            if wake_ms is not None and wake_ms <= self._loop.clock.wall_ms():
                self._behind.add(job_id)
            known = self._moments.get(job_id)
            if known is None or known.wake_ms != wake_ms:
                self.written(job_id, wake_ms, moment.owner, moment.name)
            elif wake_ms is not None:
                heapq.heappush(self._heap, (wake_ms, job_id))  # it was passed over meanwhile
        self.tell()

    def _again_later(self, job_id: bytes, moment: Moment, error: PalyraError) -> None:
        """It could not be woken: no other job waits for that, and it is not forgotten."""
        if error.code == "not_found":
            self._failures.pop(job_id, None)
            return
        longest_s = UNAVAILABLE_S_MAX if isinstance(error, Unavailable) else AGAIN_S_MAX
        failures = self._failures[job_id] = self._failures.get(job_id, 0) + 1
        seconds = min(AGAIN_S * 2 ** min(failures - 1, 20), longest_s)
        log.warning("job %s could not be woken, again in %.1f s: %s", job_id.hex(), seconds, error)

        def again() -> None:
            known = self._moments.get(job_id)
            if job_id in self._under_way:
                return
            if known is None:
                self._keep(job_id, moment)
            else:  # written meanwhile, and passed over because it was under way
                heapq.heappush(self._heap, (known.wake_ms, job_id))
                self.tell()

        self._loop.call_later(seconds, again)

    def _keep(self, job_id: bytes, moment: Moment) -> None:
        if self._moments.get(job_id) == moment:
            return
        self._moments[job_id] = moment
        heapq.heappush(self._heap, (moment.wake_ms, job_id))
        if self._heap[0][1] == job_id:
            self._set_timer(moment.wake_ms - self._loop.clock.wall_ms())

    def _set_timer(self, wait_ms: int | None) -> None:
        """One timer: to the first moment, and at most a second."""
        seconds = LOOK_S_MAX if wait_ms is None else min(max(wait_ms, 0) / 1000, LOOK_S_MAX)
        own_s = self._rota.wait_s()
        if own_s is not None:
            seconds = min(seconds, own_s)
        moment = self._loop.clock.monotonic() + seconds
        if self._timer is not None:
            if self._timer.call is not None and self._timer_at <= moment:
                return
            self._timer.cancel()
        self._timer_at = moment
        self._timer = self._loop.call_at(moment, self._rung)

    def _rung(self) -> None:
        self._timer = None
        self.tell()

    # -- time -------------------------------------------------------------------------------------

    def _offset(self) -> int:
        clock = self._loop.clock
        return clock.wall_ms() - int(clock.monotonic() * 1000)

    def _notice_steps(self) -> None:
        """Said in the log and counted; what follows from it is every job's policy's."""
        offset = self._offset()
        step = offset - self._offset_ms
        self._offset_ms = offset
        if abs(step) >= LOOK_S_MAX * 1000:
            self._steps += 1
            log.warning("the wall clock moved by %d ms against the monotonic one", step)

    # -- the file ---------------------------------------------------------------------------------

    def _read_on(self, target_ms: int) -> None:
        """Read which jobs are due until then, a page at a time."""
        self._reading = True
        if target_ms > self._target_ms:
            self._read_ms, self._target_ms = self._target_ms, target_ms
        if len(self._moments) >= LOADED_MAX:
            self._reading = False
            return
        bounds = {"wake": self._position[0], "stream": self._position[1]}
        bounds |= {"target": self._target_ms, "limit": PAGE}
        self._ask(lambda reader: reader.rows("cron.due", bounds), self._came)

    def _came(self, found: Any) -> None:
        self._reading = False
        if isinstance(found, PalyraError):
            log.warning("jobs that are due could not be read: %s", found)
            self._target_ms = self._read_ms  # what is due until then is still not known
            self._loop.call_later(LOOK_S_MAX, self.tell)
            return
        for row in found:
            wake_ms, stream, job_id, owner, name, created_ms, stream_seq, seq, settings = row[:9]
            self._position = (wake_ms, stream)
            if job_id not in self._moments and job_id not in self._under_way:
                ahead = None
                if settings is not None and len(self._moments) < AHEAD_MAX:
                    ahead = StreamRow(stream, owner, created_ms, stream_seq, seq), row[8:]
                self._keep(job_id, Moment(wake_ms, owner, name, ahead))
        if len(found) == PAGE:
            self._read_on(self._target_ms)
        else:
            self._position = max(self._position, (self._target_ms, 0))
        self.tell()
