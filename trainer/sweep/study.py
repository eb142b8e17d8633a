"""The study: which trials there are, who does which, and which are to be done again.

Optuna keeps it in a journal file that the workers share: a trial costs it 5 ms. (MLflow's own storage for Optuna takes
seconds, since it reads every run again for each parameter: ARCHITECTURE.md, "A sweep".)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import json_to_distribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from wine.errors import TrainerError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sweep.folder import Folder, Plan

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
FEWEST_ERRORS = 5  # before a sweep is given up whose trials are refused more often than not
_WORKER, _LOST, _POLL = "worker", "lost", 0.5


class _KernelLock:
    """The journal's lock; Optuna's own outlives a killed process by half a minute."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._held: AbstractContextManager[None] | None = None

    def acquire(self) -> bool:
        self._held = self._folder.lock("journal")
        self._held.__enter__()
        return True

    def release(self) -> None:
        if self._held:
            self._held.__exit__(None, None, None)


class Study:
    """Optuna's study of a sweep, and the rules by which its workers share it."""

    def __init__(self, folder: Folder, plan: Plan) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._folder, self._plan = folder, plan
        # (Any: the class that it would be derived from has no public name)
        lock: Any = _KernelLock(folder)
        storage = JournalStorage(JournalFileBackend(str(folder.journal), lock_obj=lock))
        self.optuna = optuna.create_study(
            storage=storage,
            study_name="sweep",
            direction=StudyDirection[plan.direction.upper()],
            pruner=_make_pruner(plan),
            load_if_exists=True,
        )
        self._space = {name: json_to_distribution(text) for name, text in plan.space.items()}

    def claim(self, worker: str, bury: Callable[[int], None]) -> Trial | None:
        """Return a trial to do, or None when none is left or the time is up.

        There are never more under way than are missing; who finds that too many are waits, since their workers may die.
        A dead worker's trial is marked FAIL and `bury` is called with its number.

        Raises:
            TrainerError: The estimator refuses too many trials.
        """
        while True:
            with self._folder.lock("claim"):
                self.bury_lost(bury)
                trials = self.optuna.get_trials(deepcopy=False)
                ended = sum(trial.state in ENDED for trial in trials)
                running = sum(trial.state == TrialState.RUNNING for trial in trials)
                self._check_errors(trials, ended)
                if ended >= self._plan.trials or self.is_late():
                    return None
                if ended + running < self._plan.trials:
                    return self._ask(worker, sum(_LOST not in trial.user_attrs for trial in trials))
            time.sleep(_POLL)

    def bury_lost(self, bury: Callable[[int], None]) -> None:
        """Mark the trials of dead workers as FAIL."""
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self._folder.is_alive(trial.user_attrs.get(_WORKER, "")):
                bury(trial.number)
                self.lose(trial)

    def lose(self, trial: FrozenTrial | Trial) -> None:
        """Mark a trial as one that didn't come to its end, and is to be done again."""
        self.optuna._storage.set_trial_user_attr(trial._trial_id, _LOST, True)
        self.optuna.tell(trial.number, state=TrialState.FAIL)

    def is_late(self) -> bool:
        """Return whether the time is up."""
        return self._plan.deadline is not None and time.time() >= self._plan.deadline

    def count_ended(self) -> int:
        """Return how many trials have come to their end."""
        return len(self.optuna.get_trials(deepcopy=False, states=ENDED))

    def find_best(self) -> FrozenTrial | None:
        """Return the best complete trial."""
        complete = self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return self.optuna.best_trial if complete else None

    def _ask(self, worker: str, index: int) -> Trial:
        # A sampler for each trial, whose seed depends on what came before it and on nothing else: one worker that goes
        # on after a kill does what it would have done without.
        seed = int(np.random.SeedSequence([self._plan.seed, index]).generate_state(1)[0])
        self.optuna.sampler = TPESampler(seed=seed)
        trial = self.optuna.ask(self._space)
        trial.set_user_attr(_WORKER, worker)
        return trial

    def _check_errors(self, trials: list[FrozenTrial], ended: int) -> None:
        errors = [trial for trial in trials if trial.state == TrialState.FAIL and _LOST not in trial.user_attrs]
        if len(errors) >= FEWEST_ERRORS and len(errors) > ended:
            reason: Any = errors[-1].user_attrs.get("reason", "")
            raise TrainerError(
                f"{len(errors)} of {len(errors) + ended} trials failed, the last since {reason}: change --space"
            )


def _make_pruner(plan: Plan) -> BasePruner:
    return MedianPruner(n_startup_trials=5) if plan.prune else NopPruner()
