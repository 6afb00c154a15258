"""The supervisor restarts processes, gives up those that keep dying, and leaves none behind."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import alive, children, wait_for

from workers.host.parent_death import dying_with_parent

HEADER = """
import sys
from pathlib import Path
from workers.host.supervisor import Program, Supervisor

folder = Path(sys.argv[1])

def program(name, script, handlers="", **options):
    # Each start adds a line with its pid to a file of the program's name, once it handles signals.
    note = f"open({str(folder / name)!r}, 'a').write(str(os.getpid()) + chr(10));"
    command = [sys.executable, "-c", "import os, signal, sys, time;" + handlers + note + script]
    return Program(name=name, command=command, **options)

def started(name):
    return lambda: (folder / name).exists() and (folder / name).stat().st_size > 0
"""


class Supervised:
    def __init__(self, folder: Path, body: str) -> None:
        self.folder = folder
        script = HEADER + textwrap.dedent(body)
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(folder)],
            stdout=subprocess.PIPE,
            preexec_fn=dying_with_parent(),  # noqa: PLW1509
        )

    def pids(self, name: str) -> list[int]:
        path = self.folder / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"


@contextmanager
def supervised(folder: Path, body: str) -> Iterator[Supervised]:
    run = Supervised(folder, body)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.communicate()


SLEEPER = "time.sleep(600)"
RUN = 'sys.exit(Supervisor(programs, on_ready=lambda: print("ready", flush=True)).run())\n'


def test_a_program_that_dies_is_started_again(tmp_path: Path) -> None:
    body = f"programs = [program('a', {SLEEPER!r})]\n{RUN}"
    with supervised(tmp_path, body) as run:
        run.ready()
        (first,) = wait_for(lambda: run.pids("a"))
        os.kill(first, signal.SIGKILL)
        second = wait_for(lambda: run.pids("a")[1:])[0]

        assert alive(second)
        run.process.terminate()
        assert run.process.wait(timeout=100) == 0
        assert not alive(second)


def test_five_quick_deaths_end_it_all(tmp_path: Path) -> None:
    body = f"programs = [program('a', 'sys.exit(3)'), program('b', {SLEEPER!r})]\n{RUN}"
    with supervised(tmp_path, body) as run:
        assert run.process.wait(timeout=100) == 1
        assert len(run.pids("a")) == 5
        assert not any(alive(pid) for pid in run.pids("b"))


def test_the_other_programs_are_notified_once_when_one_is_given_up(tmp_path: Path) -> None:
    """A second signal would mean that jobs at work are to be left."""
    told = tmp_path / "told"
    note = f"open({str(told)!r}, 'a').write('busy')"
    counts = f"signal.signal(signal.SIGTERM, lambda *_: {note});"
    leaves = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.2), sys.exit(0)));"
    works = f"\nwhile not os.path.exists({str(told)!r}): time.sleep(0.01)\ntime.sleep(1)"
    body = f"""
programs = [
    program('busy', {works!r}, {counts!r}, ready=started('busy')),
    program('idle', {SLEEPER!r}, ready=started('idle')),
    program('leaves', {SLEEPER!r}, {leaves!r}, ready=started('leaves')),
    program('broken', 'sys.exit(78)', stage=1),
]
{RUN}"""
    with supervised(tmp_path, body) as run:
        assert run.process.wait(timeout=100) == 78
        assert told.read_text() == "busy"


@pytest.mark.parametrize(
    "program",
    [
        "program('a', 'sys.exit(3)', lasting=True, ready=started('a'))",
        "program('a', 'os.kill(os.getpid(), signal.SIGKILL)')",
    ],
    ids=["lasts and was ready", "is killed"],
)
def test_some_programs_are_started_for_ever(tmp_path: Path, program: str) -> None:
    body = f"programs = [{program}]\n{RUN}"
    with supervised(tmp_path, body) as run:
        wait_for(lambda: len(run.pids("a")) > 5, what="a sixth start")
        assert run.process.poll() is None


def test_wrong_settings_end_it_at_once(tmp_path: Path) -> None:
    body = f"programs = [program('a', 'sys.exit(78)')]\n{RUN}"
    with supervised(tmp_path, body) as run:
        assert run.process.wait(timeout=100) == 78
        assert len(run.pids("a")) == 1


def test_deaths_are_told_apart_by_cause(tmp_path: Path) -> None:
    causes = {"device": "sys.exit(71)", "crashed": "sys.exit(3)", "killed": "os.abort()"}
    body = f"""
scripts = {causes!r}
programs = [program(kind, script, kind=kind) for kind, script in scripts.items()]
supervisor = Supervisor(programs, on_ready=lambda: None)
supervisor.run()
print(sorted(supervisor.deaths), flush=True)
"""
    with supervised(tmp_path, body) as run:
        told, _ = run.process.communicate(timeout=100)

        assert told.decode().strip() == str(sorted((kind, kind) for kind in causes))


def test_a_spare_program_is_set_aside_while_another_lives(tmp_path: Path) -> None:
    body = f"""
programs = [
    program('bad', 'sys.exit(3)', spare=True),
    program('good', {SLEEPER!r}, spare=True, ready=started('good')),
]
{RUN}"""
    with supervised(tmp_path, body) as run:
        wait_for(lambda: len(run.pids("bad")) == 5)
        run.ready()
        (good,) = run.pids("good")

        assert alive(good)
        assert run.process.poll() is None
        os.kill(good, signal.SIGKILL)
        assert wait_for(lambda: run.pids("good")[1:])
        assert len(run.pids("bad")) == 5


def test_a_program_that_cannot_be_started_counts_as_one_that_dies(tmp_path: Path) -> None:
    body = f"""
programs = [
    program('a', {SLEEPER!r}, ready=started('a')),
    Program(name='b', command=['/nowhere'], spare=True, ready=lambda: False),
]
{RUN}"""
    with supervised(tmp_path, body) as run:
        run.ready()  # without `b`, which is given up

        (pid,) = run.pids("a")
        assert alive(pid)


def test_a_look_for_readiness_that_fails_is_repeated(tmp_path: Path) -> None:
    body = f"""
answers = [OSError(24, "Too many open files"), True]

def ready():
    answer = answers.pop(0)
    if answer is not True:
        raise answer
    return True

programs = [program('a', {SLEEPER!r}, ready=ready)]
{RUN}"""
    with supervised(tmp_path, body) as run:
        run.ready()


def test_a_stage_starts_when_the_one_before_is_ready_and_stops_before_it(tmp_path: Path) -> None:
    ended = tmp_path / "ended"

    def tells(name: str) -> str:
        note = f"open({str(ended)!r}, 'a').write({name!r})"
        return f"signal.signal(signal.SIGTERM, lambda *_: ({note}, sys.exit(0)));"

    body = f"""
programs = [
    program('second', {SLEEPER!r}, {tells("second")!r}, stage=1, ready=started('second')),
    program('first', {SLEEPER!r}, {tells("first")!r}, stage=0, ready=started('gate')),
]
{RUN}"""
    with supervised(tmp_path, body) as run:
        wait_for(lambda: run.pids("first"))
        assert run.pids("second") == []
        (tmp_path / "gate").write_text("open")
        run.ready()
        run.process.send_signal(signal.SIGINT)

        assert run.process.wait(timeout=100) == 0
        assert ended.read_text() == "secondfirst"


def test_a_program_that_does_not_listen_is_killed_after_its_grace(tmp_path: Path) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    body = f"""
programs = [program('a', {SLEEPER!r}, {deaf!r}, ready=started('a'), grace_seconds=0.2)]
{RUN}"""
    with supervised(tmp_path, body) as run:
        run.ready()
        run.process.terminate()

        assert run.process.wait(timeout=100) == 0
        assert not alive(run.pids("a")[0])


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent-death signal of Linux")
def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    body = f"programs = [program('a', {SLEEPER!r})]\n{RUN}"
    with supervised(tmp_path, body) as run:
        run.ready()
        (child,) = wait_for(lambda: children(run.process.pid))
        run.process.kill()

        wait_for(lambda: not alive(child))
