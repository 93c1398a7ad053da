"""Runs one program that nobody vouches for; started by :mod:`rank_lab.evaluation.limited_process` and by nobody else.

It is run as a script by an isolated Python, so that it imports nothing but the
standard library. It takes the program and its limits from standard input,
gives up what it can give up, runs the program and says on standard output how
it ended. What the program prints goes nowhere.

A program could write that answer itself, and leave. For this it needs the
token of this one run, and the descriptor; both are known to one audit hook
alone (:func:`_answer_by`). Python shows hooks to nobody, and this one answers
only to :func:`main`'s own line after the program; what would look into frames,
at all objects or into memory from elsewhere is refused (``_REFUSED``), and what
follows the program calls nothing that the program could have replaced. What
remains: who reads this process's memory (``/proc/self/mem``), runs native code
of his own, or lets a signal interrupt the hook, can pass without an answer that
is right. That takes an enemy of this very file; a model's shortcuts
(``sys.exit``, ``os._exit``, patched functions, errors of odd types, a look into
the caller's variables) do not get there.
"""

import ctypes
import json
import os
import resource
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["guard_names", "main"]

_NEW_NET, _NEW_USER = 0x40000000, 0x10000000
_NO_NEW_PRIVILEGES = 38
# Of Landlock (Linux 5.13), the same numbers on all architectures; writing, removing and making of any kind.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITES_BY_VERSION = {1: 0x1FF2, 2: 0x3FF2, 3: 0x7FF2}
_CREATES = 1  # flag that asks for the version in place of a rule set

_REFUSED = (
    "ctypes.call_function", "ctypes.dlsym", "ctypes.string_at", "gc.get_objects", "gc.get_referents",
    "gc.get_referrers", "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn", "os.spawn",
    "os.startfile", "os.system", "pty.spawn", "resource.prlimit", "resource.setrlimit", "signal.pthread_kill",
    "socket.bind", "socket.connect", "socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname",
    "socket.sendmsg", "socket.sendto", "sqlite3.connect", "subprocess.Popen", "sys._current_exceptions",
    "sys.addaudithook", "sys.monitoring.register_callback", "sys._current_frames", "sys.setprofile", "sys.settrace",
)  # fmt: skip
_OF_PATHS = (
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.mkfifo", "os.remove", "os.removexattr", "os.rename", "os.rmdir",
    "os.setxattr", "os.symlink", "os.truncate", "os.utime",
)  # fmt: skip
_END = "rank_lab.end"
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def guard_names() -> dict[str, bool]:
    """Take on every guard that this machine's system has, for good, and say which those are."""
    return {"network": _without_network(), "files": _writes_only_in(os.getcwd())}  # noqa: PTH109


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _without_network() -> bool:
    libc = _libc()
    return libc is not None and (libc.unshare(_NEW_NET) == 0 or libc.unshare(_NEW_USER | _NEW_NET) == 0)


def _writes_only_in(folder: str) -> bool:
    """Landlock: the kernel refuses writes outside of the folder, to this process and to what it starts."""
    libc = _libc()
    version = -1 if libc is None else libc.syscall(_CREATE_RULESET, None, 0, _CREATES)
    if version < 1:
        return False
    writes = ctypes.c_uint64(_WRITES_BY_VERSION[min(version, 3)])
    rules = libc.syscall(_CREATE_RULESET, ctypes.byref(writes), ctypes.sizeof(writes), 0)
    inside = os.open(folder, os.O_PATH)
    beneath = _PathBeneath(writes.value, inside)
    done: bool = (
        libc.syscall(_ADD_RULE, rules, 1, ctypes.byref(beneath), 0) == 0
        and libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
        and libc.syscall(_RESTRICT_SELF, rules, 0) == 0
    )
    os.close(inside)
    return done


def _refuse_in_python(folder: str) -> None:
    """What Python itself is asked for, on every system; code that leaves Python is left to the kernel's guards."""
    import _posixsubprocess

    inside = os.path.realpath(folder)

    def no_process(*_: Any) -> int:
        raise PermissionError("starting a process")

    _posixsubprocess.fork_exec = no_process  # of which no event tells

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event in _REFUSED or (event == "ctypes.dlopen" and given[0] is not None):
            raise PermissionError(event)
        if event == "open" and isinstance(given[2], int) and given[2] & _WRITING:
            _check_inside(given[:1], inside, event)
        if event in _OF_PATHS:
            _check_inside(given, inside, event)

    sys.addaudithook(hook)


def _check_inside(given: tuple[Any, ...], inside: str, event: str) -> None:
    for each in given:
        if isinstance(each, str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(each))
            if path != inside and not path.startswith(inside + os.sep):
                raise PermissionError(f"{event} {path[:80]}")


def _limited(name: str, value: int) -> bool:
    kind = getattr(resource, name, None)
    if kind is None:
        return False
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(kind, (value, value))
    except (OSError, ValueError):  # macOS knows some of them by name only
        return False
    return True


def _outcome(run: Callable[[], None]) -> tuple[bool, str]:
    """Whether it came to its end, and why not: whatever an error says of itself, it is one."""
    try:
        run()
    except BaseException as error:  # noqa: BLE001 - whatever it is, SystemExit too, it has not come to its end
        return False, _said(error)
    return True, ""


def _said(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {str(error)[:200]}".removesuffix(": ")
    except BaseException:  # noqa: BLE001 - of the program's own making
        return "an error that cannot be printed"


def _answer_by(frame: FrameType, descriptor: int, token: str, guards: dict[str, bool]) -> None:
    """Have an audit hook write the answer and end the process, when :func:`main` itself says how the program ended.

    All that it needs is its own before the program runs: what is looked up later, the program may have replaced.

    Parameters
    ----------
    frame
        Of :func:`main`; the same event from anywhere else is none.
    descriptor, token
        Where the answer goes, and what shows that it is none of the program's.
    guards
        That are told with it.
    """
    answers = [json.dumps({"token": token, "passed": passed, "guards": guards}).encode() for passed in (False, True)]
    write, leave, caller, encode = os.write, os._exit, sys._getframe, str.encode

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == _END and caller(1) is frame:
            try:
                passed, error = given
                write(descriptor, answers[passed is True] + b"\n" + encode(error, "utf-8", "replace"))
            finally:
                leave(0)

    sys.addaudithook(hook)


def _prepared(frame: FrameType) -> str:
    """The program, after all that its run needs; the descriptor and the token stay behind here."""
    asked = json.loads(sys.stdin.buffer.read())
    answer, nothing = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    guards = {name: _limited(name, value) for name, value in asked["limits"].items()}
    guards |= guard_names()
    _answer_by(frame, answer, asked["token"], guards)
    _refuse_in_python(os.getcwd())  # noqa: PTH109 - the last: changes of limits, and hooks, are refused from here on
    program: str = asked["program"]
    return program


def main() -> None:
    """Take the program from standard input, run it, and say how it ended."""
    end, program = sys.audit, _prepared(sys._getframe())
    sys.argv = [""]
    passed, error = _outcome(lambda: exec(compile(program, "<generated>", "exec"), {}))  # noqa: S102
    end(_END, passed, error)
    os._exit(1)


if __name__ == "__main__":
    main()
