"""``rank-lab dashboard``: Streamlit in a process of its own, on a free port, that ends with the command."""

import http.client
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from rank_lab.errors import RankLabError
from rank_lab.plain_text import plain
from rank_lab.study import Study

__all__ = ["FIRST_PORT", "PORT_TAKEN", "dashboard_and_wait", "free_port", "is_loopback", "streamlit_settings"]

FIRST_PORT = 8501
"""Where the search for a free port begins: Streamlit's own."""

PORT_TAKEN = 75
"""Exit status of a server that another program was faster than: BSD's EX_TEMPFAIL."""

_PORTS = 100  # tried before giving up
_START_SECONDS = 60.0
_END_SECONDS = 5.0


def dashboard_and_wait(study: Path, *, host: str = "localhost", port: int | None = None, browser: bool = True) -> int:
    """Show a study until the user ends it.

    Parameters
    ----------
    study
        A study that is there, perhaps empty or still being written.
    host
        Address to listen on.
    port
        Default the first that is free from :data:`FIRST_PORT` on.
    browser
        Open one, where there is a screen.

    Returns
    -------
    int
        Exit status: 0 if it was asked to end, 1 if the server failed.

    Raises
    ------
    SchemaError
        If there is no such study.
    RankLabError
        If the port is taken, no port is free, the host is not one of this machine, or the server does not start.
    """
    folder = Study(study).folder.resolve()
    if not is_loopback(host):
        sys.stderr.write(f"warning: everyone who reaches {plain(host)} over the network can read this study.\n")
    chosen = free_port(host, port)
    while True:
        with _ended_with_us(_server(folder, host, chosen)) as server:
            try:
                if _started(server, host, chosen):
                    return _shown(server, folder, _url(host, chosen), browser=browser)
            except KeyboardInterrupt:
                return 0
        if server.returncode != PORT_TAKEN:
            raise RankLabError(f"the server ended with status {server.returncode}; what it said stands above.")
        if port is not None:
            raise RankLabError(f"port {port} was taken in this moment; leave --port out for the first that is free.")
        chosen = free_port(host, None, first=chosen + 1)  # another program was faster


def streamlit_settings(host: str, port: int) -> dict[str, str | int | bool]:
    """Settings of Streamlit: they win over what configuration files say.

    Parameters
    ----------
    host, port
        Where it listens.
    """
    return {
        "global.developmentMode": False,  # Streamlit takes an installation in an unusual place for one
        "server.address": host,
        "server.port": port,
        "server.headless": True,  # the browser is opened here; and the first start does not ask for an e-mail address
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "server.enableCORS": True,  # pages of other sites may not read it
        "server.enableXsrfProtection": True,
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "runner.magicEnabled": False,
        "logger.level": "warning",
        "theme.dark.backgroundColor": "#0e1117",  # that of the figures
        "theme.dark.primaryColor": "#ff5d73",  # Streamlit's own red is too dark for the text of a chosen tab
        "theme.light.backgroundColor": "#ffffff",
    }


def free_port(host: str, port: int | None, *, first: int = FIRST_PORT) -> int:
    """The port that was asked for, or the first free one.

    Parameters
    ----------
    host
        Address to listen on.
    port
        That must be free; None for any.
    first
        Where the search begins.

    Raises
    ------
    RankLabError
        If it is taken, none is free, or the host is not one of this machine.
    """
    if port is not None:
        if not _is_free(host, port):
            raise RankLabError(
                f"port {port} is in use; leave --port out for the first that is free, or end what listens there."
            )
        return port
    for candidate in range(first, FIRST_PORT + _PORTS):
        if _is_free(host, candidate):
            return candidate
    raise RankLabError(f"no port from {first} to {FIRST_PORT + _PORTS - 1} is free; name one with --port.")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host.

    Examples
    --------
    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("0.0.0.0"), is_loopback("myserver")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_free(host: str, port: int) -> bool:
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RankLabError(f"host {host!r} is not known ({error.strerror}); use localhost, or an address.") from error
    refused: list[OSError] = []
    for family, kind, protocol, _, address in places:
        try:
            with socket.socket(family, kind, protocol) as candidate:
                if os.name == "posix":  # a port that was just left can be taken at once
                    candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                candidate.bind(address)
        except PermissionError as error:
            raise RankLabError(f"port {port} may not be used by this account; choose one above 1023.") from error
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            refused.append(error)  # such as IPv6 on a machine without it
    if len(refused) == len(places):
        raise RankLabError(f"host {host!r} is no address of this machine ({refused[0].strerror}); use localhost.")
    return True


_TAKEN = {48, 98, 10048}  # EADDRINUSE of macOS, Linux and Windows


def _app_file(name: str) -> Path:
    """Installed the dashboard lies in the package, in a checkout beside it."""
    package = Path(__file__).resolve().parent
    for place in (package / "app" / name, package.parent / "app" / name):
        if place.is_file():
            return place
    raise RankLabError(f"the dashboard's files are neither in {package} nor beside it; install rank_lab again.")


def _server(folder: Path, host: str, port: int) -> "subprocess.Popen[str]":
    settings = json.dumps(streamlit_settings(host, port))
    command = [sys.executable, str(_app_file("serve.py")), settings, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, encoding="utf-8")  # noqa: S603 - our own arguments, no shell


@contextmanager
def _ended_with_us(server: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """The server does not outlive the command, however it is asked to end."""
    ends = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {each: signal.signal(each, _interrupt) for each in ends}
    try:
        yield server
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        _end(server)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _end(server: "subprocess.Popen[str]") -> None:
    server.terminate()
    while True:
        try:
            server.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
        except KeyboardInterrupt:  # asked twice
            server.kill()
        else:
            return


def _started(server: "subprocess.Popen[str]", host: str, port: int) -> bool:
    """Wait until the server answers; another's answer on the same port does not count."""
    said = threading.Event()
    threading.Thread(target=_listen, args=(server.stdout, f":{port}", said), daemon=True).start()
    begin = time.monotonic()
    while time.monotonic() - begin < _START_SECONDS:
        if server.poll() is not None:
            return False
        if said.is_set() and _answers(host, port):
            return True
        time.sleep(0.05)
    raise RankLabError(f"the server did not answer within {_START_SECONDS:.0f} s; is the machine very busy? Try again.")


def _listen(stream: IO[str] | None, address: str, said: threading.Event) -> None:
    """The server says its address once it has the port."""
    if stream is None:
        return
    with stream:
        for line in stream:
            if address in line:
                said.set()


def _answers(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(_reached(host), port, timeout=2)  # by no proxy, whatever is set
    try:
        connection.request("GET", "/_stcore/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _url(host: str, port: int) -> str:
    """For this machine's browser."""
    reached = _reached(host)
    return f"http://{f'[{reached}]' if ':' in reached else reached}:{port}"


def _reached(host: str) -> str:
    return {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)  # noqa: S104 - read, not listened on


def _shown(server: "subprocess.Popen[str]", folder: Path, url: str, *, browser: bool) -> int:
    sys.stdout.write(f"dashboard of {plain(str(folder))} at {url} (Ctrl-C ends it)\n")
    sys.stdout.flush()
    if browser and _has_screen():
        webbrowser.open(url)
    status = server.wait()
    if status == 0:  # it alone was asked to end, or Ctrl-C reached it before us
        return 0
    sys.stderr.write(f"the server ended by itself with status {status}.\n")
    return 1


def _has_screen() -> bool:
    """Without one a text browser would take the terminal."""
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
