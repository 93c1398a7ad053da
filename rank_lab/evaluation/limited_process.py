"""Running code that a model wrote: in a process of its own, with little time, little memory and nothing to write to.

The guards are those of the operating system where it has them (limits of
:mod:`resource`; on Linux no network, and Landlock, which refuses writes
outside of an empty folder), and of Python everywhere (its audit hooks refuse
processes, connections and writes elsewhere). That is enough for what models
write, and no prison for what an enemy writes: files can be read, and where
:attr:`Outcome.guards` says that the system has no such guard, native code
could get around Python's. What says that a program passed is kept out of its sight,
as far as that goes within one process: see
:mod:`rank_lab.evaluation.limited_child` for what remains. Run code of an enemy
in a virtual machine.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rank_lab.errors import RankLabError

__all__ = ["CodeLimits", "Outcome", "run_all", "run_limited"]

_CHILD = Path(__file__).with_name("limited_child.py")
_MOST_ANSWER = 65_536  # what a pipe holds: one who writes more waits, until the time is over


@dataclass(frozen=True)
class CodeLimits:
    """What a program may use.

    Parameters
    ----------
    seconds
        Of the clock.
    cpu_seconds
        Of a processor: does not depend on what else the machine does.
    memory_bytes
        Of address space; macOS does not enforce it.
    file_bytes
        Of the largest file that it writes.
    """

    seconds: float = 20.0
    cpu_seconds: int = 5
    memory_bytes: int = 2_000_000_000
    file_bytes: int = 1_000_000

    def __post_init__(self) -> None:
        """Refuse limits under which no program could run."""
        for name, least in (("seconds", 0.1), ("cpu_seconds", 1), ("memory_bytes", 50_000_000), ("file_bytes", 0)):
            if not getattr(self, name) >= least:
                raise RankLabError(f"{name} {getattr(self, name)!r}: expected at least {least:g}.")

    def of_resource(self) -> dict[str, int]:
        """By the names of :mod:`resource`."""
        return {
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NPROC": 1,  # no further process or thread; root is above this limit
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
        }


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Parameters
    ----------
    passed
        It came to its end without an exception.
    reason
        Why not; empty where it passed.
    guards
        Which guards of the system it ran under, by name (``network``, ``files``, ``RLIMIT_AS`` ...); empty where it
        did not say.
    """

    passed: bool
    reason: str
    guards: Mapping[str, bool] = field(default_factory=dict)


def run_limited(program: str, limits: CodeLimits | None = None) -> Outcome:
    """Run a program to its end, or to the end of its limits.

    Parameters
    ----------
    program
        Python; what it prints is thrown away.
    limits
        None for the defaults.

    Examples
    --------
    >>> run_limited("assert 1 + 1 == 2").passed
    True
    >>> run_limited("assert 1 + 1 == 3").reason
    'AssertionError'
    >>> run_limited("raise SystemExit(0)").passed
    False
    """
    allowed, token = limits or CodeLimits(), secrets.token_hex(16)
    asked = {"program": program, "token": token, "limits": allowed.of_resource()}
    empty = tempfile.TemporaryDirectory(prefix="generated-", ignore_cleanup_errors=True)
    with empty as folder, tempfile.TemporaryFile() as given:
        given.write(json.dumps(asked).encode())
        given.seek(0)
        code, answer = _run(given, folder, allowed.seconds)
    return _outcome(answer, token, code, allowed)


def run_all(programs: Sequence[str], limits: CodeLimits | None = None, *, workers: int = 0) -> Iterator[Outcome]:
    """Run programs, several at a time, and give their outcomes in order.

    Parameters
    ----------
    programs, limits
        See :func:`run_limited`.
    workers
        How many at a time; 0 for as many as cores.
    """
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        yield from pool.map(lambda program: run_limited(program, limits), programs)


def _run(given: Any, folder: str, seconds: float) -> tuple[int | None, bytes]:
    """Exit code (None: out of time) and answer; whatever it started in its group is gone afterwards."""
    environment = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HOME": folder}
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-B", str(_CHILD)], stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        cwd=folder, env=environment, start_new_session=True, close_fds=True,
    )  # fmt: skip
    given.close()  # among this process's open files it could be read again
    code: int | None = None
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _end(process)
    with process.stdout as pipe:  # type: ignore[union-attr]
        os.set_blocking(pipe.fileno(), False)
        try:
            return code, os.read(pipe.fileno(), _MOST_ANSWER)
        except BlockingIOError:
            return code, b""


def _end(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group that has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _outcome(answer: bytes, token: str, code: int | None, limits: CodeLimits) -> Outcome:
    if code is None:
        return Outcome(False, f"no end within {limits.seconds:g} seconds")
    try:
        told, _, error = answer.partition(b"\n")
        said = json.loads(told)
    except ValueError:
        said = {}
    if not isinstance(said, dict) or said.get("token") != token:
        return Outcome(False, _death(code, limits))
    return Outcome(said["passed"] is True, error.decode("utf-8", "replace"), said["guards"])


def _death(code: int, limits: CodeLimits) -> str:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"killed, after more than {limits.cpu_seconds} seconds of a processor or for its memory"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"left with code {code} before its end"
