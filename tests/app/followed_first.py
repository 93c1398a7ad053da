"""A browser whose look for changed files comes with each click, just before the click itself.

By chance it does so now and then: the look comes every three seconds, and knows already what was clicked.
"""

from dataclasses import dataclass

from playwright.sync_api import Page, WebSocketRoute, expect
from streamlit.proto.BackMsg_pb2 import BackMsg

__all__ = ["FollowedFirst"]


@dataclass
class FollowedFirst:
    """Stands between a page and its server."""

    page: WebSocketRoute
    server: WebSocketRoute
    follower: str = ""
    held: bytes = b""
    put_before: int = 0

    @classmethod
    def of(cls, page: Page, address: str) -> "FollowedFirst":
        """Opens an address and waits for the first look."""
        found: list[FollowedFirst] = []

        def between(route: WebSocketRoute) -> None:
            found.append(cls(route, route.connect_to_server()))
            route.on_message(found[0].asked)
            found[0].server.on_message(found[0].answered)

        page.route_web_socket("**/_stcore/stream", between)
        page.goto(address)
        expect(page.locator(".js-plotly-plot .point").first).to_be_visible()
        while not found[0].follower:
            page.wait_for_timeout(100)
        return found[0]

    def asked(self, message: str | bytes) -> None:
        """Of the page: what a click asks is held back, and a look that knows of it sent first."""
        asked = BackMsg.FromString(message if isinstance(message, bytes) else message.encode())
        if asked.rerun_script.is_auto_rerun:
            self.follower = asked.rerun_script.fragment_id
        elif self.follower and asked.HasField("rerun_script"):
            self.held = asked.SerializeToString()
            asked.rerun_script.fragment_id, asked.rerun_script.is_auto_rerun = self.follower, True
            self.put_before += 1
        self.server.send(asked.SerializeToString())

    def answered(self, message: str | bytes) -> None:
        """Of the server: once it has begun with the look it gets the click."""
        self.page.send(message)
        if self.held:
            self.server.send(self.held)
            self.held = b""
