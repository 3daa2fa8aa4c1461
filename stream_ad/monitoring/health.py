"""The worker's HTTP port: metrics, liveness, readiness, status."""

from __future__ import annotations

import html
import json
import logging
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client.exposition import choose_encoder

from stream_ad.monitoring.metrics import Metrics

log = logging.getLogger("stream_ad.monitoring")

REQUEST_SECONDS = 10.0
"""A client that connects and says nothing must not hold a thread for ever."""
POLL_SECONDS = 0.1
"""`close` waits for this long at most."""
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<link rel="icon" href="data:,"><title>stream_ad</title>
<style>body{{font:16px system-ui;margin:2rem;max-width:48rem}}td{{padding:.2rem 1.5rem .2rem 0}}</style>
<h1>stream_ad</h1><table>{rows}</table>
<p><a href="/metrics">metrics</a> · <a href="/readyz">ready?</a> · <a href="/api/status">status</a></p></html>"""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """As the plain server: the HTTP one asks DNS for our name, which takes seconds where none answers."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a client went away in the middle of an answer", exc_info=True)


class MonitoringServer:
    """Answers in threads of its own, so also while the worker is busy or blocked.

    `not_ready` gives the reasons why the worker is not ready (none when it is), `status` what it is doing.
    """

    def __init__(
        self,
        metrics: Metrics,
        not_ready: Callable[[], list[str]],
        status: Callable[[], dict[str, Any]],
        host: str,
        port: int,
    ) -> None:
        self._metrics = metrics
        self._not_ready = not_ready
        self._status = status
        self._address = (host, port)
        self._server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        """The port that answers; 0 before `start`."""
        return 0 if self._server is None else int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer. Raises OSError, with the key to change, if the port is taken."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_SECONDS

            def do_GET(self) -> None:
                try:
                    code, kind, body = owner.answer(self.path, self.headers.get("Accept", ""))
                except Exception:  # one page that cannot be made must not look like a dead process
                    log.exception("no answer to %s", self.path)
                    code, kind, body = 500, "text/plain", b"failed: the log says why\n"
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Scrapes are not news."""

        try:
            self._server = _Server(self._address, Handler)
        except OSError as error:
            host, port = self._address
            raise OSError(
                f"monitoring.port {port} on {host} cannot be opened: {error.strerror}; 0 takes a free one"
            ) from error
        threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="monitoring", daemon=True
        ).start()

    def answer(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """Status code, content type and body for a path."""
        path = path.partition("?")[0]
        if path == "/metrics":
            self._metrics.set_ready(not self._not_ready())
            encoder, kind = choose_encoder(accept)
            return 200, kind, encoder(self._metrics.registry)
        if path == "/livez":
            return 200, "text/plain", b"alive\n"
        if path == "/readyz":
            reasons = self._not_ready()
            return (
                (503 if reasons else 200),
                "application/json",
                dump({"ready": not reasons, "reasons": reasons}),
            )
        if path == "/api/status":
            return 200, "application/json", dump(self._status())
        if path == "/":
            return 200, "text/html; charset=utf-8", self._page()
        return 404, "text/plain", b"not here\n"

    def _page(self) -> bytes:
        cells = (f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in self._status().items())
        return PAGE.format(rows="".join(cells)).encode()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False).encode()
