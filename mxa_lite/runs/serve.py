"""`mxa-lite serve`: a run's report, live, and a box to ask a question. This machine only.

The link holds a random token; a request without it, or with another machine's `Host`, gets 404.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from mxa_lite.errors import InputError, RunError
from mxa_lite.evidence import report
from mxa_lite.runs.saved import Saved

if TYPE_CHECKING:  # torch is loaded when the first question is asked
    from mxa_lite.runs.ask import Asked

MAX_BODY = 16_000
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",  # the rest stands in the page itself
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Answerer = Callable[[str], "Asked"]


class Server(ThreadingHTTPServer):
    """Listens on 127.0.0.1; `link` is the page's address. port 0: any free one."""

    daemon_threads = True

    def __init__(self, run: Path, port: int = 0, answerer: Answerer | None = None) -> None:
        self.run = run
        self.saved = Saved(run)
        self.answerer = answerer or self.saved.ask
        self.one = ThreadPoolExecutor(1)  # pages and answers, one at a time
        super().__init__(("127.0.0.1", port), Handler)  # closes itself where the port is taken
        self.token = secrets.token_urlsafe(18)
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}
        self.link = f"http://127.0.0.1:{self.server_port}/{self.token}/"
        self._kept = ("", "")

    def report(self) -> str:
        """The report as it stands, made again only when the run has gone on."""
        version = report.version(self.run)
        if self._kept[0] != version:
            self._kept = (version, report.render(self.run, ask="ask"))
        return self._kept[1]

    def server_close(self) -> None:
        """Stop listening, and the model."""
        super().server_close()
        self.one.submit(self.saved.close).result()
        self.one.shutdown()


class Handler(BaseHTTPRequestHandler):
    """GET `/TOKEN/` and `/TOKEN/version`, POST `/TOKEN/ask`."""

    server: Server
    server_version, sys_version = "mxa-lite", ""
    timeout = 30

    def _asked(self) -> str | None:
        """What stands behind the token; None for a request that is not ours."""
        token, _, path = self.path.lstrip("/").partition("/")
        ours = secrets.compare_digest(token.encode(), self.server.token.encode())
        return path if ours and self.headers.get("Host") in self.server.hosts else None

    def _send(self, text: str, status: HTTPStatus = HTTPStatus.OK, kind: str = "html") -> None:
        data = text.encode("utf-8", "replace")
        self.send_response(status)
        headers = {"Content-Type": f"text/{kind}; charset=utf-8", "Content-Length": str(len(data))}
        for name, value in (headers | HEADERS).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """The report, or the version of what it shows."""
        place = self._asked()
        if place == "":
            try:
                self._send(self.server.one.submit(self.server.report).result())
            except InputError as error:  # a damaged file of the run
                page = report.page(title="No report", note=str(error))
                self._send(page, HTTPStatus.INTERNAL_SERVER_ERROR)
        elif place == "version":
            self._send(report.version(self.server.run), kind="plain")
        else:
            self._send("not found", HTTPStatus.NOT_FOUND, "plain")

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if self._asked() != "ask":
            self._send("not found", HTTPStatus.NOT_FOUND, "plain")
        elif not size.isdecimal() or int(size) > MAX_BODY:
            self._send("too long", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "plain")
        else:
            form = parse_qs(self.rfile.read(int(size)).decode("utf-8", "replace"))
            work = partial(self.server.answerer, form.get("question", [""])[0])
            try:
                self._send(self.server.one.submit(work).result().page(back=True))
            except (InputError, RunError) as error:
                page = report.page(title="No answer", note=str(error), back=True)
                self._send(page, HTTPStatus.BAD_REQUEST)

    def send_error(self, code: int, *_: Any) -> None:
        """Other methods and broken requests get what a wrong link gets."""
        self._send("not found", HTTPStatus.NOT_FOUND, "plain")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal shows the link alone."""
