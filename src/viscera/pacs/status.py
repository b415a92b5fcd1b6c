"""What the queue holds: as JSON, as a page, and as the text that Prometheus reads; on a port of this machine only."""

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from viscera.errors import SettingError
from viscera.pacs.spool import PAGE, PICTURE, STATES, Spool
from viscera.serving.meter import head

if TYPE_CHECKING:
    from viscera.pacs.receiving import Counts

LOCAL = ("127.0.0.1", "localhost")
SHOWN = 50
POLICY = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"
STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:62rem;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{text-align:left;padding:.25rem .7rem;border-bottom:1px solid #d8dde4}"
    "img{max-width:100%}"
)


def status(spool: Spool) -> dict[str, Any]:
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
    """Return the queue as an HTML page: how many are where, what failed and why, how long the last ones took, a picture."""
    found = status(spool)
    counts = _table(("", "series"), ((state, count) for state, count in found["jobs"].items()))
    reasons = _table(("failed", "why"), ((one["job"], one["reason"]) for one in reversed(found["failed"])))
    late = _table(
        ("tried again", "tries", "why"), ((one["job"], one["tries"], one["reason"]) for one in found["retried"])
    )
    done = _table(
        ("done", "segmenting, s", "sending, s"),
        ((one["job"], one["segmented_s"], one["sent_s"]) for one in reversed(found["done"])),
    )
    picture, shown = spool.root / PICTURE, ""
    if picture.is_file():
        link = f'<p><a href="/{PAGE}">Look at it in the viewer</a></p>' if (spool.root / PAGE).is_file() else ""
        source = f"/{PICTURE}?{picture.stat().st_mtime_ns}"
        shown = f'<h2>Last result</h2>{link}<img src="{source}" alt="Slices of the last result">'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="10">'
        f"<title>viscera listen</title><style>{STYLE}</style></head><body><h1>viscera listen</h1>"
        "<p>Not a medical device: for research, not for diagnosis or treatment.</p>"
        f"{counts}{reasons}{late}{done}{shown}</body></html>"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an HTML table; nothing without rows."""
    lines = ["".join(f"<td>{escape('' if cell is None else str(cell))}</td>" for cell in row) for row in rows]
    if not lines:
        return ""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f"<table><tr>{titles}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


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
                "/": ("text/html; charset=utf-8", lambda: page(spool).encode()),
                "/status.json": ("application/json", lambda: json.dumps(status(spool)).encode()),
                "/metrics": ("text/plain; version=0.0.4; charset=utf-8", lambda: metrics(spool, counts.now()).encode()),
                f"/{PICTURE}": ("image/png", (spool.root / PICTURE).read_bytes),
                f"/{PAGE}": ("text/html; charset=utf-8", (spool.root / PAGE).read_bytes),
            }
            path = self.path.partition("?")[0]
            try:
                if host not in LOCAL:  # else a web page could read it under a name of its own
                    raise PermissionError
                kind, content = answers[path][0], answers[path][1]()
            except (PermissionError, KeyError, FileNotFoundError) as error:
                self.send_error(403 if isinstance(error, PermissionError) else 404)
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Cache-Control", "no-store")
            if path != f"/{PAGE}":  # which says itself that it loads nothing
                self.send_header("Content-Security-Policy", POLICY)
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
