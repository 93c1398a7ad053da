"""The server: answers at once, and from memory only what lies in Streamlit's own folder."""

import asyncio
import http.client
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse
from xml.etree import ElementTree as ET

import pytest
import streamlit
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from app.kept_files import KeptFiles, files_below
from app.serve import _listening
from tests.app.served import dashboard

STATIC = Path(streamlit.__file__).parent / "static" / "static"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[http.client.HTTPConnection]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "study").mkdir()
    with dashboard(folder / "study", folder / "log") as address:
        connection = http.client.HTTPConnection(urlparse(address).netloc)
        yield connection
        connection.close()


def test_what_is_accepted_waits_for_no_acknowledgement() -> None:
    """With Nagle's algorithm each small answer waits for the one before to be acknowledged: 40 ms on Linux."""

    async def accepted(listening: socket.socket) -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        class Accepted(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                its_socket = transport.get_extra_info("socket")
                found.set_result(its_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                transport.close()

        async with await asyncio.get_running_loop().create_server(Accepted, sock=listening):
            with socket.create_connection(listening.getsockname()):
                return await found

    assert asyncio.run(accepted(_listening("127.0.0.1", 0))) == 1


def test_a_port_is_ours_before_anything_is_loaded() -> None:
    """Two that start at once: a socket that is bound alone would let the other have the port too."""
    with _listening("127.0.0.1", 0) as first, pytest.raises(OSError, match="in use"):
        _listening("127.0.0.1", first.getsockname()[1])


@pytest.mark.parametrize("file", sorted(STATIC.glob("js/index*.js")) + sorted(STATIC.glob("css/index*.css")))
def test_streamlits_files_are_whole_and_kept_by_browsers(server: http.client.HTTPConnection, file: Path) -> None:
    server.request("GET", f"/static/{file.relative_to(STATIC).as_posix()}")
    answer = server.getresponse()
    assert answer.read() == file.read_bytes()
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "public, immutable, max-age=31536000"
    assert answer.headers.get_content_subtype() == {".js": "javascript", ".css": "css"}[file.suffix]


@pytest.mark.parametrize("path", ["/", "/layers"])
def test_a_page_has_our_name_and_icon_and_asks_early_for_scripts_that_are_there(
    server: http.client.HTTPConnection, path: str
) -> None:
    page = got(server, path)
    assert re.findall("<title>(.*?)</title>", page) == ["rank_lab"]
    (icon,) = re.findall('<link rel="icon" href="data:image/svg\\+xml,(.*?)">', page)
    assert ET.fromstring(unquote(icon)).tag == "{http://www.w3.org/2000/svg}svg"
    (script,) = re.findall('rel: "modulepreload", href: "(.*?)"', page)
    assert "plotly" in got(server, script)


def got(server: http.client.HTTPConnection, path: str) -> str:
    server.request("GET", path)
    answer = server.getresponse()
    assert answer.status == 200
    return answer.read().decode()


@pytest.mark.parametrize(
    "path",
    ["/static/absent.js", "/static/../index.html", "/static/%2e%2e/%2e%2e/config.py", "/static//etc/passwd"],
)  # fmt: skip
def test_nothing_else_is_a_file(server: http.client.HTTPConnection, path: str) -> None:
    server.request("GET", path)
    answer = server.getresponse()
    said = answer.read()
    assert answer.status in (400, 404) or b'<div id="root">' in said, (answer.status, said[:100])  # or Streamlit's page


def test_what_is_not_kept_is_left_to_the_server(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.js").write_text("1")
    client = TestClient(KeptFiles(PlainTextResponse("the server"), files_below(tmp_path, "/static/")))
    assert client.get("/static/deep/one.js").text == "1"
    for asked in (client.get("/deep/one.js"), client.get("/static/deep"), client.post("/static/deep/one.js")):
        assert asked.text == "the server"
