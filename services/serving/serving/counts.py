"""What a worker counts, in Prometheus's text format."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


@dataclass
class Counts:
    """Requests for predictions since this version began.

    Attributes:
        model, version: labels of every line.
        statuses: answers by HTTP's status.
        short: answers that went the short way.
        seconds: their times, all together.
        buckets: how many took no longer than each of BUCKETS.
        waiting: requests that are in the queue or being predicted there.
    """

    model: str
    version: str
    statuses: Counter[int] = field(default_factory=Counter)
    short: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    waiting: int = 0

    def add(self, status: int, seconds: float) -> None:
        """Count an answer."""
        self.statuses[status] += 1
        self.seconds += seconds
        for place, limit in enumerate(BUCKETS):
            if seconds <= limit:
                self.buckets[place] += 1

    @property
    def labels(self) -> str:
        """What every line has."""
        return f'model="{self.model}",version="{self.version}"'

    def render(self) -> str:
        """Return all of it."""
        labels = self.labels
        total = sum(self.statuses.values())
        lines = ["# TYPE serving_requests_total counter"]
        lines += [
            f'serving_requests_total{{{labels},status="{status}"}} {count}'
            for status, count in sorted(self.statuses.items())
        ]
        lines += [
            "# TYPE serving_short_requests_total counter",
            f"serving_short_requests_total{{{labels}}} {self.short}",
        ]
        lines += ["# TYPE serving_waiting_requests gauge", f"serving_waiting_requests{{{labels}}} {self.waiting}"]
        lines.append("# TYPE serving_request_seconds histogram")
        for limit, count in zip(BUCKETS, self.buckets, strict=True):
            lines.append(f'serving_request_seconds_bucket{{{labels},le="{limit:g}"}} {count}')
        lines.append(f'serving_request_seconds_bucket{{{labels},le="+Inf"}} {total}')
        lines.append(f"serving_request_seconds_sum{{{labels}}} {self.seconds:.6f}")
        lines.append(f"serving_request_seconds_count{{{labels}}} {total}")
        return "\n".join(lines) + "\n"
