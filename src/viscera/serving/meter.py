"""Counts of what the server did, and their text for Prometheus: no name of a scan, no address, no file.

Source: Prometheus text exposition format 0.0.4, https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

BUCKETS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histogram of seconds; one more holds the rest."""
METHODS = ("GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH")
FAILED = 500
"""Statuses from here on are the server's own failures; 0: no answer was given."""


class Meter:
    """What the server did since it began; many threads may count at once."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.seconds: dict[str, float] = {}
        self._histograms: dict[str, list[int]] = {}
        self.cut: Counter[str] = Counter()
        self.open = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Note a request that is being answered."""
        with self._lock:
            self.open += 1

    def end(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note a request that was answered.

        Args:
            method: As it came; what is no usual word counts as "other".
            route: From ``plain_path``.
            status: 0 where there was no answer.
            seconds: That it took.
        """
        method = method if method in METHODS else "other"
        with self._lock:
            self.open -= 1
            self.requests[method, route, status] += 1
            self.seconds[route] = self.seconds.get(route, 0.0) + seconds
            self._histograms.setdefault(route, [0] * (len(BUCKETS_S) + 1))[bisect_left(BUCKETS_S, seconds)] += 1

    def note_cut(self, why: str) -> None:
        """Note an upload that was ended: "silent", "slow", "long" or "large"."""
        with self._lock:
            self.cut[why] += 1

    def failures(self) -> int:
        """Return how many requests failed by the server's fault, or got no answer."""
        with self._lock:
            return sum(count for (_, _, status), count in self.requests.items() if status >= FAILED or not status)

    def rows(self) -> list[tuple[str, str, int, int, float]]:
        """Return (method, route, requests, of which failed, mean seconds of the route), sorted."""
        with self._lock:
            requests, seconds = dict(self.requests), dict(self.seconds)
        found: dict[tuple[str, str], list[int]] = {}
        by_route: Counter[str] = Counter()
        for (method, route, status), count in requests.items():
            row = found.setdefault((method, route), [0, 0])
            row[0] += count
            row[1] += count * (status >= FAILED or not status)
            by_route[route] += count
        return [(*key, *row, seconds[key[1]] / by_route[key[1]]) for key, row in sorted(found.items())]  # type: ignore[misc]

    def text(self, gauges: Mapping[str, tuple[str, Mapping[str, float]]]) -> str:
        """Return the metrics in Prometheus' text form.

        Args:
            gauges: {name: (what it says, {labels in braces or "": value})} of what is measured at the moment.
        """
        with self._lock:
            requests, seconds, cut = dict(self.requests), dict(self.seconds), dict(self.cut)
            histograms = {route: list(counts) for route, counts in self._histograms.items()}
            now = self.open
        lines = head("viscera_requests_total", "counter", "Requests that were answered; status 0: without an answer.")
        for (method, route, status), count in sorted(requests.items()):
            lines.append(f'viscera_requests_total{{method="{method}",route="{route}",status="{status}"}} {count}')
        lines += head(
            "viscera_request_seconds", "histogram", "Seconds from a request's headers to the end of its answer."
        )
        for route, counts in sorted(histograms.items()):
            total = 0
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), counts, strict=True):
                total += count
                lines.append(f'viscera_request_seconds_bucket{{route="{route}",le="{bound}"}} {total}')
            lines.append(f'viscera_request_seconds_sum{{route="{route}"}} {seconds[route]:.6f}')
            lines.append(f'viscera_request_seconds_count{{route="{route}"}} {total}')
        lines += head(
            "viscera_failures_total", "counter", "Requests that failed by the server's fault, or got no answer."
        )
        lines.append(f"viscera_failures_total {self.failures()}")
        lines += head("viscera_uploads_ended_total", "counter", "Uploads that were ended because of a limit.")
        lines += [f'viscera_uploads_ended_total{{why="{why}"}} {count}' for why, count in sorted(cut.items())]
        lines += head("viscera_requests_open", "gauge", "Requests that are being answered.")
        lines.append(f"viscera_requests_open {now}")
        for name, (what, values) in gauges.items():
            lines += head(name, "gauge", what)
            lines += [f"{name}{labels} {value:g}" for labels, value in values.items()]
        return "\n".join(lines) + "\n"


def head(name: str, kind: str, what: str) -> list[str]:
    """Return the two lines that go before a metric's values.

    Args:
        name: Of the metric.
        kind: counter, gauge or histogram.
        what: It says, in a sentence.
    """
    return [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]
