"""The log of predictions: what was asked and answered, written as Parquet beside the work, for `follower` to take away.

A prediction only leaves its bytes here. A thread makes rows of them once a minute, or sooner if many have come. Memory
and disk are bounded: what doesn't fit is lost and counted, and no prediction waits for the log or fails because of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.types import DataType

from serving import batches
from serving.answers import JSON, Answerer, read_numbers

SECONDS = 60.0  # a file's age
# A file is begun sooner after so much, so that the buffer is never full while the disk takes it.
FLUSH_REQUESTS, FLUSH_BYTES = 5_000, 4 * 1024**2
BUFFER_BYTES = 16 * 1024**2
OVERHEAD = 500  # bytes of a request beside its body and answer
MAX_ROWS = 1_000  # of one request
# What all this takes of memory, beside what the model may have.
MEMORY = 128 * 1024**2
# A thread that works on Python's objects keeps the event loop from its own for up to this long (Python: 5 ms).
SWITCH_SECONDS = 0.0005
END_SECONDS = 5.0
TYPES = {
    DataType.boolean: pa.bool_(),
    DataType.integer: pa.int32(),
    DataType.long: pa.int64(),
    DataType.float: pa.float32(),
    DataType.double: pa.float64(),
    DataType.string: pa.string(),
    DataType.datetime: pa.timestamp("us"),
}
HEAD = {
    "request_id": pa.string(),
    "time": pa.timestamp("us", tz="UTC"),
    "version": pa.string(),
    "seconds": pa.float64(),
    "rows": pa.int32(),
    "row": pa.int32(),
    "input_hash": pa.string(),
    "output": pa.string(),
}


class Entry(NamedTuple):
    """A request that was answered.

    Attributes:
        moment: when, in seconds since 1970.
        request_id: the gateway's, which its own log has too.
        body, content_type: what was asked.
        answer: the answer's JSON.
        seconds: how long it took.
    """

    moment: float
    request_id: str
    body: bytes
    content_type: str
    answer: str
    seconds: float

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.body) + len(self.answer) + OVERHEAD


class Log:
    """The log of one version's worker.

    Attributes:
        written: rows in files.
        dropped: requests that are in no file, by why: memory, disk, unreadable.
        removed: rows in files that were removed because nobody took them away.
    """

    def __init__(self, answerer: Answerer, name: str, version: str, sample: float, folder: Path) -> None:
        self.written = 0
        self.removed = 0
        self.dropped: Counter[str] = Counter(memory=0, disk=0, unreadable=0)
        self._answerer, self._name, self._version, self._sample, self._folder = answerer, name, version, sample, folder
        self._types = find_types(answerer)
        self._entries: list[Entry] = []
        self._held = 0  # bytes, of those that are being written too
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_ending = False
        self._thread = threading.Thread(target=self.run, name="log", daemon=True)

    def start(self) -> None:
        """Write files from now on."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self._thread.start()

    def end(self) -> None:
        """Write what there is."""
        self._is_ending = True
        self._wake.set()
        self._thread.join(END_SECONDS)

    def add(self, request_id: str, body: bytes, content_type: str, answer: str, seconds: float) -> None:
        """Remember an answered request, if there is room."""
        entry = Entry(time.time(), request_id, body, content_type, answer, seconds)
        with self._lock:
            if self._held + entry.size > BUFFER_BYTES:
                self.dropped["memory"] += 1
                return
            self._held += entry.size
            self._entries.append(entry)
            is_much = self._held > FLUSH_BYTES or len(self._entries) > FLUSH_REQUESTS
        if is_much:
            self._wake.set()

    def run(self) -> None:
        """Write a file a minute until the end."""
        while not self._is_ending:
            self._wake.wait(SECONDS)
            self._wake.clear()
            self.write()
        self.write()

    def write(self) -> None:
        """Write what has come; whatever goes wrong is counted."""
        with self._lock:
            entries, self._entries = self._entries, []
        if not entries:
            return
        try:
            table, unreadable = self.make_table(entries)
            self.dropped["unreadable"] += unreadable
            if table.num_rows:
                self.save(table)
                self.written += table.num_rows
        except OSError:
            self.dropped["disk"] += len(entries)
        except MemoryError:
            self.dropped["memory"] += len(entries)
        except (pa.ArrowException, ValueError, TypeError):
            self.dropped["unreadable"] += len(entries)
        finally:
            with self._lock:
                self._held -= sum(entry.size for entry in entries)

    def make_table(self, entries: list[Entry]) -> tuple[pa.Table, int]:
        """Return the rows of these requests, and how many of them can't be read."""
        columns: dict[str, list[Any]] = {name: [] for name in (*HEAD, *(batches.INPUT + name for name in self._types))}
        unreadable = 0
        for entry in entries:
            try:
                rows = self.read(entry)
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001  (MLflow could read it a moment ago; whatever it is, the log goes on)
                unreadable += 1
                continue
            for name, values in rows.items():
                columns[name] += values
        types = HEAD | {batches.INPUT + name: kind for name, kind in self._types.items()}
        return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()}), unreadable

    def read(self, entry: Entry) -> dict[str, list[Any]]:
        """Return the chosen rows of a request, by column. Raises whatever reading it raises."""
        inputs = self.read_inputs(entry)
        outputs = json.loads(entry.answer)
        outputs = outputs["predictions"] if isinstance(outputs, dict) and "predictions" in outputs else outputs
        count = len(next(iter(inputs.values()))) if inputs else 1
        if not (inputs and isinstance(outputs, list) and len(outputs) == count):
            outputs = [outputs] * count  # an answer for all rows together
        chosen = self.choose(count)
        digest = hashlib.sha256(entry.body).hexdigest()[:16]
        head = [entry.request_id, datetime.fromtimestamp(entry.moment, UTC), self._version, entry.seconds, count]
        rows: dict[str, list[Any]] = {name: [value] * len(chosen) for name, value in zip(HEAD, head, strict=False)}
        rows |= {
            "row": chosen,
            "input_hash": [digest] * len(chosen),
            "output": [json.dumps(outputs[place]) for place in chosen],
        }
        for name in self._types:
            values = inputs.get(name)
            rows[batches.INPUT + name] = [values[place] if values is not None else None for place in chosen]
        return rows

    def read_inputs(self, entry: Entry) -> dict[str, list[Any]]:
        """Return the columns of a request, {} if the model takes no table of plain columns."""
        if not self._types:
            return {}
        if self._answerer.columns and entry.content_type == JSON:
            numbers = read_numbers(json.loads(entry.body), self._answerer.columns)
            if numbers is not None:
                return {name: numbers[place] for place, (name, _) in enumerate(self._answerer.columns)}
        frame = self._answerer.read_data(entry.body, entry.content_type)
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(type(frame))
        # (here, where only this request is lost if a value is none of its column's)
        return {
            name: pa.array(frame[name], kind, from_pandas=True).to_pylist()
            for name, kind in self._types.items()
            if name in frame
        }

    def choose(self, count: int) -> list[int]:
        """Return which rows of a request are logged."""
        chosen = list(range(count))
        if self._sample < 1:
            chosen = [place for place in chosen if random.random() < self._sample]  # noqa: S311 # nosec B311
        if len(chosen) > MAX_ROWS:
            chosen = sorted(random.sample(chosen, MAX_ROWS))  # nosec B311
        return chosen

    def save(self, table: pa.Table) -> None:
        """Write a file; it gets its name when it is whole. Raises OSError."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        content = sink.getvalue()
        batch = batches.Batch(self._name, self._version, datetime.now(UTC), table.num_rows)
        self.removed += batches.make_room(self._folder, content.size, batches.LIMIT_BYTES)
        part = self._folder / f".{os.getpid()}.part"
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._folder / batch.name)
        finally:
            part.unlink(missing_ok=True)

    def render(self, labels: str) -> str:
        """Return what was counted, in Prometheus's text format."""
        lines = ["# TYPE serving_log_rows_total counter", f"serving_log_rows_total{{{labels}}} {self.written}"]
        lines.append("# TYPE serving_log_dropped_requests_total counter")
        for why, count in sorted(self.dropped.items()):
            lines.append(f'serving_log_dropped_requests_total{{{labels},why="{why}"}} {count}')
        lines.append("# TYPE serving_log_removed_rows_total counter")
        lines.append(f"serving_log_removed_rows_total{{{labels}}} {self.removed}")
        return "\n".join(lines) + "\n"


def find_types(answerer: Answerer) -> dict[str, pa.DataType]:
    """Return the columns that a model takes, {} if it takes no table of plain, named columns."""
    schema = answerer.schema
    if schema is None or schema.is_tensor_spec() or not schema.has_input_names():
        return {}
    types = {spec.name: TYPES.get(spec.type) for spec in schema.inputs}
    return {} if None in types.values() else types
