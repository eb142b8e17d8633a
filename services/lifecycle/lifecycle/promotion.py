"""Into Production and back: the gate is asked, its outcome recorded, and the version moved."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import read_mlflow_creds

from lifecycle import evaluation, gate, metrics, models, registry
from lifecycle.refusals import Refused
from wine.errors import TrainerError
from wine.registry import find_run
from wine.tracking import find_experiment

EXPERIMENT = "Promotions"
# Of a version: how its last gate ended, in which run, at which rule, and why it went through nevertheless.
OUTCOME, RUN, RULE, REASON = "stack.gate", "stack.gate_run", "stack.gate_rule", "stack.gate_reason"
RUNNING, PASSED, REFUSED, FORCED, FAILED = "running", "passed", "refused", "forced", "failed"
MAX_TAG = 1000


@dataclass(frozen=True)
class Order:
    """What the operator asks for.

    Attributes:
        name: the registered model.
        version: the candidate.
        limits: what is demanded of it.
        data: rows to compare on, None for the trainer's own.
        shown: what the operator calls that file.
        target: its column to predict.
        reason: why the candidate goes through even if it is refused; None to let the gate decide.
    """

    name: str
    version: int
    limits: gate.Limits = field(default_factory=gate.Limits)
    data: Path | None = None
    shown: str = ""
    target: str | None = None
    reason: str | None = None


def find_best(client: MlflowClient, name: str, metric: str) -> tuple[int, float]:
    """Return the version whose run has the best value of a metric, and the value; of equal ones the newest.

    Raises:
        TrainerError: No run has it.
    """
    more, plain = metrics.is_more_better(metric), metric.partition(":")[0]
    found: list[tuple[float, int, float]] = []
    for number, version in registry.read_model(client, name).versions.items():
        run = find_run(client, version)
        value = run.data.metrics.get(plain, math.nan) if run else math.nan
        if math.isfinite(value):
            found.append((value if more else -value, number, value))
    if not found:
        raise TrainerError(f"no version of {name} has a run with metric {plain!r}: name one by --version")
    _, number, value = max(found)
    return number, value


def promote(client: MlflowClient, order: Order, tell: Callable[[str], None]) -> None:
    """Put a version in Production if it keeps the rules, or if it is forced.

    Raises:
        Refused: It doesn't; or another version came to Production meanwhile.
        TrainerError: There is no such version, or nothing to compare on.
    """
    model = registry.read_model(client, order.name)
    version, champion = model.find(order.version), model.champion
    if champion == order.version:
        tell(f"Version {champion} of {order.name} is in Production already: nothing to do")
        return
    if version.status != "READY":
        raise Refused("status", f"version {order.version} of {order.name} is {version.status}, not READY")
    # The first thing that is written: who may not promote is told so before anything has been computed.
    tag(client, order, {OUTCOME: RUNNING})
    try:
        with open_run(client, order, champion) as run_id:
            refusal = ask_gate(client, order, model, tell)
            record(client, order, run_id, refusal)
        if refusal is None or order.reason is not None:
            registry.move_production(order.name, order.version, champion)
    except Refused as error:
        tag(client, order, {OUTCOME: REFUSED, RULE: str(error)})
        raise
    except BaseException:
        with suppress(Exception):
            tag(client, order, {OUTCOME: FAILED})
        raise
    if refusal is not None and order.reason is None:
        raise refusal
    if refusal is not None:
        tell(f"Refused ({refusal}), and forced: {order.reason}")
    after = "nobody was there before" if champion is None else f"version {champion} is archived"
    tell(f"Version {order.version} of {order.name} is in Production; {after}")


def ask_gate(
    client: MlflowClient, order: Order, model: registry.Registered, tell: Callable[[str], None]
) -> Refused | None:
    """Return what the gate refuses with, None if it lets the candidate through."""
    numbers = [order.version] + ([model.champion] if model.champion is not None else [])
    with tempfile.TemporaryDirectory() as folder:
        try:
            candidate = models.fetch(order.name, order.version, Path(folder))
            champion = None
            if model.champion is not None:
                try:
                    champion = models.fetch(order.name, model.champion, Path(folder))
                except Refused as error:
                    numbers.remove(model.champion)
                    tell(f"The champion can't be compared with, so that the absolute rules alone decide ({error})")
            versions = [model.find(number) for number in numbers]
            held_out = evaluation.find_held_out(client, versions, order.data, order.shown, order.target)
            gate.examine(candidate, champion, held_out, order.limits, tell)
        except Refused as refusal:
            return refusal
    return None


@contextmanager
def open_run(client: MlflowClient, order: Order, champion: int | None) -> Iterator[str]:
    """Yield the id of the run that keeps the evaluation."""
    try:
        experiment = find_experiment(client, EXPERIMENT)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another promotion was faster
            raise
        experiment = find_experiment(client, EXPERIMENT)
    user = read_mlflow_creds().username or "nobody"
    labels = {"mlflow.user": user, "mlflow.source.name": "./stack promote", "model": order.name}
    with mlflow.start_run(experiment_id=experiment, run_name=f"{order.name} {order.version}", tags=labels) as run:
        shown = {"candidate": order.version, "champion": champion or registry.NOBODY, "data": order.shown or "held out"}
        limits = {
            "min_improvement": order.limits.min_improvement,
            "max_latency": order.limits.max_latency,
            "trusts": order.limits.trusts,
            **{f"threshold {name}": value for name, value in order.limits.thresholds.items()},
        }
        mlflow.log_params(shown | {name: value for name, value in limits.items() if value is not None})
        yield str(run.info.run_id)


def record(client: MlflowClient, order: Order, run_id: str, refusal: Refused | None) -> None:
    """Write the gate's outcome onto the run and the version, before anything is moved."""
    outcome = PASSED if refusal is None else REFUSED if order.reason is None else FORCED
    facts = {OUTCOME: outcome, RULE: str(refusal or ""), REASON: (order.reason or "") if refusal else ""}
    mlflow.set_tags({name: value for name, value in facts.items() if value})
    tag(client, order, facts | {RUN: run_id})


def tag(client: MlflowClient, order: Order, facts: dict[str, str]) -> None:
    """Set tags of the version; an empty one only to clear what an earlier gate left."""
    known = client.get_model_version(order.name, str(order.version)).tags
    for name, value in facts.items():
        if value or known.get(name):
            client.set_model_version_tag(order.name, str(order.version), name, value[:MAX_TAG])
