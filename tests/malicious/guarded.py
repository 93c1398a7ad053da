"""Runs the command line once per case, each in a process of its own, and measures what that took.

Started as ``python -m tests.malicious.guarded`` with JSON lists of argument
lists, a line each, on standard input. It imports what the command line imports,
once, and forks for each case, so that a case is measured above start-up:
processor time from zero, and the peak of resident memory (``VmHWM``, set back by
``clear_refs``) of the whole process, start-up included. A case that hangs is
ended by its alarm.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_ALARM_SECONDS = 60  # of the clock, against hanging only: the machine may be busy


Run = Callable[[list[list[str]]], list[dict[str, Any]]]


@contextmanager
def command_lines(environment: Mapping[str, str]) -> Iterator[Run]:
    """A process that answers lists of argument lists: exit code, what was printed, what it took."""
    command = [sys.executable, "-m", "tests.malicious.guarded"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT, env=environment
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def run(cases: list[list[str]]) -> list[dict[str, Any]]:
            requests.write(json.dumps(cases) + "\n")
            requests.flush()
            results: list[dict[str, Any]] = json.loads(answers.readline())
            return results

        yield run
        requests.close()
    assert process.returncode == 0


def main() -> None:
    """Answer the lines of standard input on standard output."""
    import rank_lab.commands
    import rank_lab.export_command
    import rank_lab.verify_command  # noqa: F401 - start-up, which is not measured
    from rank_lab.cli import main as command_line

    for line in sys.stdin:
        print(json.dumps([_run(command_line, arguments) for arguments in json.loads(line)]), flush=True)


def _run(command_line: Any, arguments: list[str]) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        child = os.fork()
        if child == 0:
            _in_child(command_line, arguments, Path(folder))
        _, status = os.waitpid(child, 0)
        told = Path(folder, "told")
        about = json.loads(told.read_text()) if told.exists() else {"code": os.waitstatus_to_exitcode(status)}
        for name in ("out", "err"):
            about[name] = Path(folder, name).read_bytes().decode("utf-8", "replace")
        return about


def _in_child(command_line: Any, arguments: list[str], folder: Path) -> None:
    signal.alarm(_ALARM_SECONDS)
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is resident now
    start, sys.argv, code = time.process_time(), ["rank-lab", *arguments], 0
    try:
        command_line()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 0
    except BaseException as error:  # noqa: BLE001 - told as what must not happen
        code = 99
        print(f"traceback: {error!r}", file=sys.stderr)
    sys.stdout.flush()
    about = {"code": code, "cpu": time.process_time() - start, "peak": _peak()}
    Path(folder, "told").write_text(json.dumps(about))
    os._exit(0)


def _peak() -> float:
    """Megabytes that were resident at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
