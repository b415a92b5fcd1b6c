"""Routes for whoever runs the server, on its own machine: the status page, metrics, the last result, the log.

Pages load nothing from elsewhere and hold no name of a scan. The status page has no script; it asks for itself every ten seconds.
"""

import html
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from viscera.serving.background import Kind
from viscera.serving.guard import refusal
from viscera.serving.last_result import Small
from viscera.serving.segmenting import MOST_WAITING
from viscera.serving.service import Service

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'",
}
VIEW_HEADERS = {**HEADERS, "Content-Security-Policy": "frame-ancestors 'none'"}
"""The viewer's page says itself that it loads nothing (reports/viewer/static/view.html)."""
KINDS: tuple[Kind, ...] = ("train", "batch_infer", "scoring")
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:62rem;padding:0 1rem;color:#1d2733;background:#f6f7f9}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.1rem;margin:1.6rem 0 .4rem}
.tiles{display:flex;flex-wrap:wrap;gap:.7rem;margin:1rem 0}
.tile{background:#fff;border:1px solid #d8dde4;border-radius:8px;padding:.5rem .9rem;min-width:7.5rem}
.tile b{display:block;font-size:1.35rem}.tile span{color:#55606e;font-size:.85rem}.bad b{color:#b00020}
table{border-collapse:collapse;background:#fff;border:1px solid #d8dde4;width:100%}
th,td{text-align:left;padding:.28rem .6rem;border-bottom:1px solid #e8ebef}th{font-weight:600;background:#eef1f5}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%;border-radius:8px}
.note{color:#55606e;font-size:.9rem}a{color:#0b57a4}
"""


async def status(service: Service, request: Request) -> Response:
    """Show how the server is."""
    return HTMLResponse(await run_in_threadpool(page_of, service), headers=HEADERS)


async def metrics(service: Service, request: Request) -> Response:
    """Give Prometheus its numbers."""
    text = await run_in_threadpool(lambda: service.meter.text(gauges_of(service)))
    return PlainTextResponse(text, media_type=METRICS_TYPE, headers={"Cache-Control": "no-store"})


async def montage(service: Service, request: Request) -> Response:
    """Give the picture of the last result."""
    small = service.last.get()
    if small is None:
        return refusal(404, "nothing has been segmented since the server began")
    content = service.last.made("montage", small.number)
    if content is None:
        content = await service.queue.run(lambda: _draw(small))
        service.last.keep("montage", small.number, content)
    return Response(content, media_type="image/png", headers=HEADERS)


async def view(service: Service, request: Request) -> Response:
    """Show the last result in the viewer: slices and 3D."""
    small, draw = service.last.get(), service.draw_page
    if small is None or draw is None:
        return refusal(404, "nothing has been segmented since the server began")
    content = service.last.made("view", small.number)
    if content is None:
        content = await service.queue.run(lambda: draw(small.ct, small.labels, small.names).encode())
        service.last.keep("view", small.number, content)
    return Response(content, media_type="text/html; charset=utf-8", headers=VIEW_HEADERS)


async def logs(service: Service, request: Request) -> Response:
    """Give the last lines of the log."""
    lines = request.query_params.get("lines", "300")
    count = int(lines) if lines.isascii() and lines.isdecimal() and len(lines) < 6 else 300
    return PlainTextResponse(service.log.last(max(1, count)))


def gauges_of(service: Service) -> dict[str, tuple[str, Mapping[str, float]]]:
    """Return what is measured at the moment, for ``Meter.text``."""
    kept = service.datastore.status()
    versions, serving = service.versions, {}
    if versions is not None:
        serving = {f'{{model="{name}"}}': float(versions.history(name).serving) for name in versions.first}
    running = {f'{{kind="{kind}"}}': float(service.tasks.running(kind) is not None) for kind in KINDS}
    return {
        "viscera_queue_waiting": ("Scans that wait or are being worked on.", {"": service.queue.waiting}),
        "viscera_tasks_running": ("Tasks in the background.", running),
        "viscera_model_version": ("Version of each model that serves.", serving),
        "viscera_scans": ("Scans in the studies' folder.", {"": float(str(kept["total"]))}),
        "viscera_scans_corrected": ("Of them those with final labels.", {"": float(str(kept["completed"]))}),
        "viscera_resident_memory_bytes": ("Memory of the process.", {"": psutil.Process().memory_info().rss}),
    }


def page_of(service: Service) -> str:
    """Return the status page as HTML."""
    kept, failures = service.datastore.status(), service.meter.failures()
    tiles = (
        _tile(service.queue.waiting, f"of {MOST_WAITING} scans waiting"),
        _tile(service.meter.open, "requests open"),
        _tile(failures, "failures", bad=failures > 0),
        _tile(kept["total"], "scans"),
        _tile(kept["completed"], "corrected"),
        _tile(f"{psutil.Process().memory_info().rss / 2**20:.0f} MiB", "memory"),
    )
    small = service.last.get()
    if small is None:
        last = "<p class=note>Nothing has been segmented since the server began.</p>"
    else:
        when = time.strftime("%H:%M:%S", time.localtime(small.when))
        link = '<a href="/view/">Look at it in the viewer</a>' if service.draw_page is not None else ""
        last = (
            f"<p class=note>Result {small.number}, {when}, at most 256 voxels along each axis. {link}</p>"
            f'<img src="/montage.png?n={small.number}" alt="Slices of the last result">'
        )
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="10">',
            f'<meta name="viewport" content="width=device-width"><title>viscera serve</title><style>{STYLE}</style></head><body>',
            "<h1>viscera serve</h1><p class=note>Not a medical device: for research, not for diagnosis or treatment.</p>",
            f"<div class=tiles>{''.join(tiles)}</div>",
            f"<h2>Models</h2>{_models(service)}<h2>In the background</h2>{_tasks(service)}",
            f"<h2>Last result</h2>{last}<h2>Requests</h2>{_requests(service)}",
            '<p class=note><a href="/metrics">Metrics</a> · <a href="/logs/">Log</a> · <a href="/info/">Info</a></p></body></html>',
        )
    )


def _tile(value: object, what: str, *, bad: bool = False) -> str:
    return f'<div class="tile{" bad" if bad else ""}"><b>{html.escape(str(value))}</b><span>{html.escape(what)}</span></div>'


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]], *, numbers: int) -> str:
    """Return a table whose last ``numbers`` columns are numbers."""
    first = len(head) - numbers

    def cells(row: tuple[object, ...], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if at >= first else ''}>{html.escape(str(cell))}</{tag}>" for at, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{cells(head, 'th')}</tr>{body}</table>"


def _models(service: Service) -> str:
    """Return the models, their versions, and by what each beat the one before."""
    rows: list[tuple[object, ...]] = []
    for name in service.models:
        if service.versions is None or name not in service.versions.first:
            rows.append((name, "1", "serves", "", "", ""))
            continue
        history = service.versions.history(name)
        rows.append((name, "1", "serves" if history.serving == 1 else "kept", "", "", ""))
        for one in history.versions:
            fared, state = one.comparison, "serves" if one.version == history.serving else "kept"
            rows.append((name, one.version, state, f"{fared.old_dice:.4f}", f"{fared.new_dice:.4f}", fared.cases))
        for fared in history.lost[-5:]:
            rows.append((name, "-", "not better", f"{fared.old_dice:.4f}", f"{fared.new_dice:.4f}", fared.cases))
    return _table(("model", "version", "state", "Dice before", "Dice", "held-back cases"), rows, numbers=3)


def _tasks(service: Service) -> str:
    """Return the newest task of each kind."""
    rows: list[tuple[object, ...]] = []
    for kind in KINDS:
        task = service.tasks.last(kind)
        if task is not None:
            end = task.ended or time.time()
            rows.append((kind, task.status, _first_words(task.details), f"{end - task.started:.0f}"))
    if not rows:
        return "<p class=note>Nothing since the server began.</p>"
    return _table(("task", "state", "how far", "seconds"), rows, numbers=1)


def _first_words(details: object) -> str:
    """Return the last line of a task, which for an error may name a scan: then only that there was one."""
    lines = [str(line) for line in details] if hasattr(details, "__iter__") else []  # type: ignore[attr-defined]
    shown = ("training", "preparing", "comparing", "Dice", "stopped", "going on")
    line = lines[-1] if lines else ""
    return (
        line
        if line.startswith(shown) or " scans: " in line
        else "see GET /train/, /batch/infer or /scoring/"
        if line
        else ""
    )


def _requests(service: Service) -> str:
    rows: list[tuple[object, ...]] = [
        (f"{method} {route}", count, failed, f"{mean:.3f}")
        for method, route, count, failed, mean in service.meter.rows()
    ]
    return _table(("request", "count", "failed", "mean seconds"), rows, numbers=3)


def _draw(small: Small) -> bytes:
    """Return the last result as a PNG: slices beside their labels, without any text of the scan."""
    from viscera.figures.montage import Look, montage

    with TemporaryDirectory(prefix="viscera-serve-picture-") as folder:
        file = Path(folder, "montage.png")
        montage(small.ct, small.labels, truth=None, names=small.names, out=file, look=Look(axial=2, coronal=1))
        return file.read_bytes()
