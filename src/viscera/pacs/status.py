"""What the queue holds: as JSON, as a page, and as the text that Prometheus reads; on a port of this machine only."""

import json
import threading
from collections.abc import Mapping
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from viscera.errors import SettingError
from viscera.pacs.spool import STATES, Spool
from viscera.serving.meter import head

if TYPE_CHECKING:
    from viscera.pacs.receiving import Counts

LOCAL = ("127.0.0.1", "localhost")
SHOWN = 50


def status(spool: Spool) -> dict[str, object]:
    """Return how many jobs there are in each state, and the last ones that failed or are done."""
    jobs = {state: spool.jobs(state) for state in STATES}
    failed = [{"job": job.key, "reason": job.facts().get("reason")} for job in jobs["failed"][-SHOWN:]]
    late = [(job.key, job.facts()) for job in jobs["sending"]]
    retried = [
        {"job": key, "tries": facts["tries"], "reason": facts.get("last_error")}
        for key, facts in late
        if facts.get("tries")
    ]
    done = []
    for job in jobs["done"][-SHOWN:]:
        facts = job.facts()
        done.append({"job": job.key, **{name: facts.get(name) for name in ("segmented_s", "sent_s", "sent")}})
    return {
        "jobs": {state: len(found) for state, found in jobs.items()},
        "failed": failed,
        "retried": retried,
        "done": done,
    }


def metrics(spool: Spool, counts: Mapping[str, int]) -> str:
    """Return the queue in Prometheus' text format, version 0.0.4."""
    lines = head("viscera_jobs", "gauge", "Series in each state.")
    lines += [f'viscera_jobs{{state="{state}"}} {len(spool.jobs(state))}' for state in STATES]
    lines += head("viscera_received_total", "counter", "What came since the node was started.")
    lines += [f'viscera_received_total{{what="{what}"}} {count}' for what, count in sorted(counts.items())]
    lines += head("viscera_spool_bytes", "gauge", "Of the queue's folder.")
    return "\n".join([*lines, f"viscera_spool_bytes {spool.size_bytes()}", ""])


def page(spool: Spool) -> str:
    """Return the queue as an HTML page."""
    found = status(spool)
    body = escape(json.dumps(found, indent=2))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="10">'
        f"<title>viscera listen</title><h1>viscera listen</h1><p>Research only.</p><pre>{body}</pre></html>"
    )


def start_status(spool: Spool, counts: "Counts", port: int) -> ThreadingHTTPServer:
    """Answer /, /status.json and /metrics on 127.0.0.1, on threads of its own; end with ``shutdown()``.

    Raises:
        SettingError: The port cannot be had.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            """Answer."""
            host = self.headers.get("Host", "").rsplit(":", 1)[0]
            answers = {
                "/": ("text/html; charset=utf-8", lambda: page(spool)),
                "/status.json": ("application/json", lambda: json.dumps(status(spool))),
                "/metrics": ("text/plain; version=0.0.4; charset=utf-8", lambda: metrics(spool, counts.now())),
            }
            if host not in LOCAL or self.path not in answers:  # else a web page could read it under a name of its own
                self.send_error(403 if host not in LOCAL else 404)
                return
            kind, text = answers[self.path]
            content = text().encode()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Write nothing."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise SettingError(f"port {port} cannot be used ({error})", "Choose another --status-port.") from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
