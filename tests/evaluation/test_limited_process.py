"""What code that a model wrote may do, and that nothing else comes of it."""

import os
import tempfile
import time
from pathlib import Path

import pytest

from rank_lab.errors import RankLabError
from rank_lab.evaluation import limited_process
from rank_lab.evaluation.limited_process import CodeLimits, run_all, run_limited

SHORT = CodeLimits(seconds=40.0, cpu_seconds=1, memory_bytes=400_000_000)


@pytest.mark.parametrize(
    "program",
    [
        "assert sorted([2, 1]) == [1, 2]",
        "import typing, math, collections, itertools, re, heapq, random, datetime",
        "open('note.txt', 'w').write('here')\nassert open('note.txt').read() == 'here'",
        "print('x' * 10_000_000)",
        "import collections, logging; collections.namedtuple('P', 'x y')(1, 2); logging.warning('here')",
        "assert __import__('sys').stdin.read() == ''",
    ],
)
def test_harmless_programs_come_to_their_end(program: str) -> None:
    outcome = run_limited(program, SHORT)
    assert outcome.passed, outcome.reason


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import sys; sys.exit()", "SystemExit"),
        ("import os; os._exit(0)", "left with code 0"),
        ("while True: pass", "killed"),
        ("f = lambda: f()\nf()", "RecursionError"),
        ("import sys; sys.setrecursionlimit(10**9)\nf = lambda n: f(n + 1)\nf(0)", "killed"),
        ("hog = []\nwhile True: hog.append(bytearray(10**7))", "MemoryError"),
        ("hog = bytearray(10**12)", "MemoryError"),
        ("open('big', 'w').write('x' * 10**8)", "OSError"),
        ("input()", "EOFError"),
        ("import os\nwhile True: os.fork()", "PermissionError"),
        ("import subprocess; subprocess.run(['true'])", "PermissionError"),
        ("import multiprocessing as m\np = m.get_context('spawn').Process(target=print)\np.start()", "PermissionError"),
        ("import os; os.system('true')", "PermissionError"),
        ("import os; os.kill(os.getppid(), 9)", "PermissionError"),
        ("import resource; resource.setrlimit(resource.RLIMIT_CPU, (99, 99))", "PermissionError"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "PermissionError"),
        ("import urllib.request as u; u.urlopen('http://127.0.0.1:9')", "URLError"),
    ],
)
def test_others_end_for_a_reason(program: str, reason: str) -> None:
    outcome = run_limited(program, SHORT)
    assert not outcome.passed
    assert outcome.reason.startswith(reason), outcome.reason


LOOK = """
import os, sys
def look(frame):
    while frame is not None:
        for names in (frame.f_locals, frame.f_globals):
            for name, value in list(names.items()):
                closure = getattr(value, '__closure__', None) or ()
                for each in [value, *[cell.cell_contents for cell in closure]]:
                    found.append((name, each))
                    found.extend((name, inner) for inner in each.values()) if isinstance(each, dict) else None
        frame = frame.f_back
found = []
look(sys._getframe())
try:
    1 / 0
except ZeroDivisionError as error:
    look(error.__traceback__.tb_frame)
assert len(found) > 20
texts = [each for _, each in found if isinstance(each, str) and len(each) == 32]
tokens = [each for each in texts if set(each) <= set('0123456789abcdef')]
names = {name for name, _ in found}
"""


def test_neither_token_nor_descriptor_is_in_a_frame_that_a_program_reaches() -> None:
    outcome = run_limited(LOOK + "assert not tokens and not names & {'token', 'answer', 'asked', 'descriptor'}", SHORT)
    assert outcome.passed, outcome.reason


END = "rank_lab.end"
FORGED = (
    LOOK
    + """
import json
for token in tokens:
    for place in range(3, 20):
        try: os.write(place, json.dumps({'token': token, 'passed': True, 'error': '', 'guards': {}}).encode())
        except OSError: pass
os._exit(0)
"""
)
TAKEN = """
import os, sys, json
frame = sys._getframe()
while 'token' not in frame.f_locals: frame = frame.f_back
token, answer = frame.f_locals['token'], frame.f_locals['answer']
os.write(answer, json.dumps({'token': token, 'passed': True, 'error': '', 'guards': {}}).encode())
os._exit(0)
"""
PATCHED = """
import json
real = json.JSONEncoder.iterencode
json.JSONEncoder.iterencode = lambda s, o, *a, **k: real(s, {**o, 'error': '', 'passed': True})
assert 0
"""


@pytest.mark.parametrize(
    "program",
    [
        FORGED,
        TAKEN,
        "raise type('', (Exception,), {})",  # whose text is empty
        "class E(Exception):\n  def __str__(self): import os; os._exit(0)\nraise E",
        "class E(Exception):\n  def __str__(self): raise SystemExit\nraise E",
        "import json; real = json.dumps\njson.dumps = lambda o: real({**o, 'error': '', 'passed': True})\nassert 0",
        PATCHED,
        f"import sys; sys.audit({END!r}, True, ''); assert 0",
        f"import sys, functools; sys.audit = functools.partial(sys.audit, {END!r}, True, ''); assert 0",
        "import __main__; __main__._outcome = lambda *_: (True, ''); __main__._said = lambda _: 7; assert 0",
        "import sys\nseen = []\nsys.addaudithook(lambda *_: seen.append(1))\nopen('x', 'w')\nassert seen",
        "import sys; sys.settrace(print)",
        "import gc; gc.get_objects()",
        "import sys; sys._current_frames()",
    ],
)
def test_a_program_does_not_pass_by_looking_around(program: str) -> None:
    assert not run_limited(program, SHORT).passed


def test_what_is_asked_is_not_open_in_the_parent_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, in /proc/PARENT/fd, a program could read its token where the system has no Landlock."""
    made, closed = [], []
    make, end = tempfile.TemporaryFile, limited_process._end
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: made.append(make()) or made[-1])
    monkeypatch.setattr(limited_process, "_end", lambda process: closed.append(made[-1].closed) or end(process))
    assert run_limited("pass", SHORT).passed
    assert closed == [True]


def test_one_that_sleeps_is_ended_by_the_clock() -> None:
    start = time.monotonic()
    outcome = run_limited("import time; time.sleep(60)", CodeLimits(seconds=1.0))
    assert outcome.reason == "no end within 1 seconds"
    assert time.monotonic() - start < 20


def test_one_that_writes_without_end_to_its_answer_fills_no_memory() -> None:
    program = (
        "import os\nfor place in range(3, 9):\n"
        "  try:\n    while True: os.write(place, b'x' * 4096)\n  except OSError: pass"
    )
    assert not run_limited(program, CodeLimits(seconds=2.0)).passed


@pytest.mark.parametrize(
    "program",
    [
        "import os; os.remove({victim!r})",
        "import os; os.rename({victim!r}, 'mine')",
        "import shutil; shutil.rmtree({folder!r})",
        "open({victim!r}, 'w')",
        "open({victim!r}, 'r+').write('gone')",
        "import pathlib; pathlib.Path({victim!r}).write_text('gone')",
        "import os; os.truncate({victim!r}, 0)",
        "import os; os.chmod({victim!r}, 0)",
        "import ctypes; ctypes.CDLL(None).unlink({victim!r}.encode())",
        "import os; os.symlink({victim!r}, 'link'); open('link', 'w')",
        "import os\nfd = os.open({folder!r}, os.O_RDONLY)\nos.unlink('victim', dir_fd=fd)",
    ],
)
def test_files_elsewhere_stay_as_they_are(program: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    outcome = run_limited(program.format(victim=str(victim), folder=str(tmp_path)), SHORT)
    assert not outcome.passed, program
    assert victim.read_text() == "precious"
    assert victim.stat().st_mode & 0o600 == 0o600


def test_python_alone_keeps_files_and_processes_where_the_system_has_no_guard(tmp_path: Path) -> None:
    """Without Landlock only Python's own hook is left; it is tried in this way on every system."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "empty").mkdir()
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import limited_child as child\n"
        "child._refuse_in_python(os.getcwd())\n"
        "refused = 0\n"
        "for attempt in (lambda: os.remove(sys.argv[2]), lambda: open(sys.argv[2], 'w'), os.fork):\n"
        "    try: attempt()\n"
        "    except PermissionError: refused += 1\n"
        "open('inside', 'w').close(); os.remove('inside')\n"
        "print(refused)\n"
    )
    import subprocess
    import sys

    import rank_lab.evaluation

    home = str(Path(rank_lab.evaluation.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, home, str(victim)], cwd=tmp_path / "empty", capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "3", done.stderr
    assert victim.read_text() == "precious"


def test_what_the_system_guards_is_said() -> None:
    guards = run_limited("pass", SHORT).guards
    assert {"network", "files", "RLIMIT_AS", "RLIMIT_CPU"} <= set(guards)
    assert all(isinstance(there, bool) for there in guards.values())


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    run_limited("open('left', 'w').write('x')\nwhile True: pass", SHORT)
    assert list(tmp_path.iterdir()) == []


def test_outcomes_are_in_the_order_of_programs() -> None:
    programs = [f"assert {number} % 2 == 0" for number in range(6)]
    assert [outcome.passed for outcome in run_all(programs, workers=2)] == [True, False] * 3


def test_environment_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "A_SECRET", "token")
    assert run_limited("import os; assert 'A_SECRET' not in os.environ", SHORT).passed


def test_limits_under_which_nothing_runs_are_refused() -> None:
    with pytest.raises(RankLabError, match="cpu_seconds 0: expected at least 1"):
        CodeLimits(cpu_seconds=0)
