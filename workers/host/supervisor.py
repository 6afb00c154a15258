"""Process supervisor: starts programs in stages, restarts them, stops them in reverse order.

A program that exits is restarted with exponential backoff. After five early exits in a row the
supervisor gives it up: a redundant program (an engine, while another one runs) is disabled, any
other stops the supervisor. A program is not given up if it was killed (SIGKILL), or if it is
`lasting` and was ready before, as its disk may be full. The only blocking call is a `select`; exits
of children and signals wake it.
"""

import contextlib
import logging
import os
import selectors
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.host.parent_death import dying_with_parent

#: Exit status of a program with invalid settings (EX_CONFIG of sysexits.h).
EXIT_CONFIGURATION = 78
#: Exit status of a program whose device failed in a way that only a new process may fix.
EXIT_DEVICE = 71
#: Causes of exits: `killed` by a signal, `crashed` with another status, the rest as above.
DEATH_CAUSES = ("configuration", "crashed", "device", "killed")
PROGRAM_STATES = ("down", "starting", "ready", "set-aside")
MAX_QUICK_EXITS = 5
_QUICK_SECONDS = 20.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_TICK_SECONDS = 0.05

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program to keep running."""

    name: str
    command: Sequence[str]
    kind: str = ""
    """Kind of program, for metrics."""
    stage: int = 0
    """Started when one program of the previous stage is ready; stopped before that stage."""
    ready: Callable[[], bool] = lambda: True
    """Readiness check, called 20 times a second until it returns True."""
    spare: bool = False
    """May be given up while another program of its stage runs."""
    lasting: bool = False
    """Never given up once it has been ready."""
    grace_seconds: float = 10.0
    """Time from SIGTERM to SIGKILL."""
    parent_death: signal.Signals = signal.SIGKILL
    log_file: Path | None = None
    """Its own log, named when it ends; None: it writes to the common one."""


@dataclass(slots=True)
class _Child:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    started: float = 0.0
    ready: bool = False
    was_ready: bool = False
    quick_exits: int = 0
    not_before: float = 0.0
    given_up: bool = False

    @property
    def alive(self) -> bool:
        return self.process is not None

    @property
    def state(self) -> str:
        if self.given_up:
            return "set-aside"
        return "ready" if self.ready else "starting" if self.alive else "down"


class Supervisor:
    """Runs programs until SIGTERM or SIGINT."""

    def __init__(self, programs: Sequence[Program], *, on_ready: Callable[[], None]) -> None:
        self._children = [_Child(program) for program in programs]
        self._stages = sorted({program.stage for program in programs})
        self._on_ready = on_ready
        self._stop_signals = 0
        self._failure = 0
        self._selector = selectors.DefaultSelector()
        self.kinds = sorted({program.kind for program in programs})
        #: Exits by kind and cause.
        self.deaths: Counter[tuple[str, str]] = Counter()

    def states(self) -> Counter[tuple[str, str]]:
        """Number of programs by kind and state; thread-safe."""
        return Counter((child.program.kind, child.state) for child in self._children)

    def ready(self) -> bool:
        """True if all programs that are not disabled are ready; thread-safe."""
        return all(child.ready or child.given_up for child in self._children)

    def run(self) -> int:
        """Run until stopped.

        Returns 0, 1 if a program was given up, or EXIT_CONFIGURATION if its settings were invalid.
        """
        wake_reader, wake = os.pipe()
        for end in (wake_reader, wake):
            os.set_blocking(end, False)
        self._selector.register(wake_reader, selectors.EVENT_READ)
        with _signals_to(wake, self._on_signal):
            try:
                self._keep_running(wake_reader)
            finally:
                self._stop_all(wake_reader)
        self._selector.close()
        os.close(wake_reader)
        os.close(wake)
        return self._failure

    def _on_signal(self, *_: object) -> None:
        self._stop_signals += 1

    def _keep_running(self, wake_reader: int) -> None:
        announced = False
        while not self._stop_signals and not self._failure:
            self._start_due()
            all_ready = self._check_ready()
            if all_ready and not announced:
                announced = True
                self._on_ready()
            self._wait(wake_reader, None if all_ready else _TICK_SECONDS)
            self._reap()

    def _start_due(self) -> None:
        now = time.monotonic()
        for stage in self._stages:
            members = [child for child in self._children if child.program.stage == stage]
            for child in members:
                if not child.alive and not child.given_up and now >= child.not_before:
                    self._start(child)
            if not any(child.ready for child in members):
                return

    def _start(self, child: _Child) -> None:
        program = child.program
        child.started = time.monotonic()
        try:
            child.process = subprocess.Popen(
                program.command,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches only the supervisor
                preexec_fn=dying_with_parent(program.parent_death),  # noqa: PLW1509 - prctl, no locks
            )
        except OSError as failure:  # such as no memory or process id left for the moment
            log.error("%s cannot be started: %s", program.name, failure)
            self._has_died(child, 1)
            return
        child.pidfd = os.pidfd_open(child.process.pid)
        self._selector.register(child.pidfd, selectors.EVENT_READ)

    def _check_ready(self) -> bool:
        """Check programs that are not ready yet; returns True when all are."""
        for child in self._children:
            if child.alive and not child.ready:
                with contextlib.suppress(OSError):  # such as no free file descriptor: asked again
                    child.ready = child.program.ready()
                child.was_ready |= child.ready
        return self.ready()

    def _wait(self, wake_reader: int, timeout: float | None) -> None:
        self._selector.select(timeout)
        with contextlib.suppress(BlockingIOError):
            os.read(wake_reader, 1024)

    def _reap(self) -> None:
        for child in self._children:
            if child.process is None or (status := child.process.poll()) is None:
                continue
            self._forget_process(child)
            if not self._stop_signals:
                self._has_died(child, status)

    def _has_died(self, child: _Child, status: int) -> None:
        """Schedule the next start of a program, or give it up."""
        lived = time.monotonic() - child.started
        quick = lived < _QUICK_SECONDS
        child.quick_exits = min(child.quick_exits + 1, MAX_QUICK_EXITS) if quick else 1
        pause = min(_FIRST_PAUSE * 2 ** (child.quick_exits - 1), _LONGEST_PAUSE)
        child.not_before = time.monotonic() + pause
        self.deaths[child.program.kind, _cause(status)] += 1
        if status != EXIT_CONFIGURATION:  # the program has logged the reason
            name, own = child.program.name, child.program.log_file
            hint = "" if own is None else f"; its log is {own}"
            log.warning("%s ended with status %d after %.1f s%s", name, status, lived, hint)
        lasts = child.program.lasting and child.was_ready
        killed = status == -signal.SIGKILL  # from outside: it has not failed
        failing = child.quick_exits >= MAX_QUICK_EXITS and not lasts and not killed
        if status == EXIT_CONFIGURATION or failing:
            self._give_up(child, status)

    def _give_up(self, child: _Child, status: int) -> None:
        child.given_up = True
        others = [
            other
            for other in self._children
            if other.program.stage == child.program.stage and not other.given_up
        ]
        if child.program.spare and others:
            log.critical("%s keeps failing and is disabled", child.program.name)
        else:
            if status != EXIT_CONFIGURATION:
                log.critical("%s keeps failing: giving up", child.program.name)
            self._failure = EXIT_CONFIGURATION if status == EXIT_CONFIGURATION else 1

    def _stop_all(self, wake_reader: int) -> None:
        self._stop_signals = max(1, self._stop_signals)  # `_reap` restarts nothing from here on
        for stage in reversed(self._stages):
            members = [c for c in self._children if c.program.stage == stage and c.alive]
            _signal(members, signal.SIGTERM)
            grace = max((child.program.grace_seconds for child in members), default=0.0)
            deadline = time.monotonic() + grace
            passed_on = self._stop_signals
            while any(child.alive for child in members) and time.monotonic() < deadline:
                self._wait(wake_reader, deadline - time.monotonic())
                # a second signal is passed on, as it means a faster stop
                if self._stop_signals > passed_on:
                    passed_on = self._stop_signals
                    _signal(members, signal.SIGTERM)
                self._reap()
            _signal(members, signal.SIGKILL)
            for child in members:
                if child.process is not None:
                    child.process.wait()
                    self._forget_process(child)

    def _forget_process(self, child: _Child) -> None:
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        child.process, child.ready = None, False


def _cause(status: int) -> str:
    if status < 0:
        return "killed"
    return {EXIT_CONFIGURATION: "configuration", EXIT_DEVICE: "device"}.get(status, "crashed")


def _signal(children: Sequence[_Child], signum: signal.Signals) -> None:
    for child in children:
        if child.process is not None and child.process.poll() is None:
            child.process.send_signal(signum)


@contextlib.contextmanager
def _signals_to(wake: int, handler: Callable[..., None]) -> Iterator[None]:
    previous = {s: signal.signal(s, handler) for s in (signal.SIGTERM, signal.SIGINT)}
    previous_wake = signal.set_wakeup_fd(wake)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous_wake)
        for signum, old in previous.items():
            signal.signal(signum, old)
