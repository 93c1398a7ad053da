"""The verb: ports, hosts, several at once, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from rank_lab import dashboard_command
from rank_lab.dashboard_command import free_port, is_loopback, streamlit_settings
from rank_lab.errors import RankLabError
from rank_lab.figures.style import palette
from tests.app.served import ROOT, dashboard
from tests.checkpoints import rank_lab


def test_a_study_that_is_not_there(tmp_path: Path) -> None:
    outcome = rank_lab("dashboard", tmp_path / "absent", "--no-browser")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "is no folder" in outcome.err


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = rank_lab("dashboard", tmp_path, "--no-browser", "--port", port)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert f"port {port} is in use; leave --port out" in outcome.err


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_a_host_of_elsewhere_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(RankLabError, match="use localhost"):
        free_port(host, None)


def test_without_a_port_the_first_free_one_is_taken() -> None:
    first = free_port("localhost", None)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # tests before may just have left it
        taken.bind(("127.0.0.1", first))
        taken.listen()
        assert free_port("localhost", None) > first


def test_a_host_that_others_reach_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise RankLabError("far enough")

    monkeypatch.setattr(dashboard_command, "_server", stop)
    with pytest.raises(RankLabError, match="far enough"):
        dashboard_command.dashboard_and_wait(tmp_path, host="0.0.0.0")
    assert "everyone who reaches 0.0.0.0" in capsys.readouterr().err
    with pytest.raises(RankLabError, match="far enough"):
        dashboard_command.dashboard_and_wait(tmp_path)
    assert capsys.readouterr().err == ""
    assert is_loopback("::1")
    assert not is_loopback("10.0.0.1")


def test_streamlit_is_told_to_keep_to_itself() -> None:
    given = streamlit_settings("localhost", 8501)
    expected = {
        "server.address": "localhost", "server.port": 8501, "browser.gatherUsageStats": False,
        "server.enableCORS": True,
        "server.enableXsrfProtection": True, "client.showErrorDetails": "none", "server.fileWatcherType": "none",
    }  # fmt: skip
    assert {name: given[name] for name in expected} == expected
    for style in ("light", "dark"):
        assert given[f"theme.{style}.backgroundColor"] == palette(style).background  # type: ignore[arg-type]


def test_whether_it_answers_is_asked_of_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/_stcore/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nothing listens
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert dashboard_command._answers("127.0.0.1", server.server_port)
    assert not dashboard_command._answers("127.0.0.1", server.server_port)


def test_a_browser_is_opened_only_where_there_is_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert not dashboard_command._has_screen()
    monkeypatch.setenv("DISPLAY", ":0")
    assert dashboard_command._has_screen()


def test_two_at_once_on_an_empty_study_and_ctrl_c_ends_each(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    with dashboard(tmp_path / "study", tmp_path / "one") as one, dashboard(tmp_path / "study", tmp_path / "two") as two:
        assert one != two
        for address in (one, two):
            with urllib.request.urlopen(address) as answer:
                assert answer.status == 200


def test_a_command_that_is_terminated_leaves_no_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rank_lab", "dashboard", str(tmp_path), "--no-browser"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert " at http://" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    with pytest.raises(ProcessLookupError):  # nothing of its group is left
        os.killpg(process.pid, 0)


class _Ended:
    """In place of the server: a process that ends with a status, and how often it was started."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.ports: list[int] = []

    def __call__(self, _folder: Path, _host: str, port: int) -> "subprocess.Popen[str]":
        self.ports.append(port)
        command = [sys.executable, "-c", f"raise SystemExit({self.status})"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_server_that_dies_at_once_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = _Ended(3)
    monkeypatch.setattr(dashboard_command, "_server", dead)
    for port in (None, free_port("localhost", None)):
        with pytest.raises(RankLabError, match="the server ended with status 3; what it said stands above"):
            dashboard_command.dashboard_and_wait(tmp_path, port=port)
    assert len(dead.ports) == 2


def test_a_port_that_another_was_faster_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = _Ended(dashboard_command.PORT_TAKEN)
    monkeypatch.setattr(dashboard_command, "_server", late)
    with pytest.raises(RankLabError, match="was taken in this moment; leave --port out"):
        dashboard_command.dashboard_and_wait(tmp_path, port=free_port("localhost", None))
    late.ports.clear()
    monkeypatch.setattr(dashboard_command, "_PORTS", free_port("localhost", None) - 8501 + 2)
    with pytest.raises(RankLabError, match="no port from"):
        dashboard_command.dashboard_and_wait(tmp_path)
    assert len(late.ports) == 2  # each of them was tried
    assert late.ports[0] < late.ports[1]


def test_the_server_says_that_its_port_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with dashboard_command._server(tmp_path, "localhost", taken.getsockname()[1]) as server:
            assert server.wait(60) == dashboard_command.PORT_TAKEN


def test_a_server_that_is_asked_to_end_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    server = dashboard_command._server

    def kept(folder: Path, host: str, port: int) -> "subprocess.Popen[str]":
        started.append(server(folder, host, port))
        return started[-1]

    def end_it(*_: object) -> bool:
        started[-1].send_signal(signal.SIGINT)  # to the server alone, as if Ctrl-C had reached it first
        return True

    monkeypatch.setattr(dashboard_command, "_server", kept)
    monkeypatch.setattr(dashboard_command, "_has_screen", lambda: True)
    monkeypatch.setattr(dashboard_command.webbrowser, "open", end_it)
    assert dashboard_command.dashboard_and_wait(tmp_path) == 0
