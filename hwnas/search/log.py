"""The events of a search: written before the search goes on, read back when it resumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from hwnas import schemas
from hwnas.documents import read_json
from hwnas.errors import DataFormatError
from hwnas.estimates import Budget, Estimate, Interval
from hwnas.protocols import Emit
from hwnas.records import Measurement, Promise, SearchResult, Trial, to_json
from hwnas.runs import RunFolder
from hwnas.search.strategy import Decision
from hwnas.spec import NetworkSpec
from hwnas.store import parse, write_json
from hwnas.units import format_ms

Field = TypeVar("Field")


def _field(event: Mapping[str, Any], name: str, kind: type[Field], where: str) -> Field:
    """A field of an event; DataFormatError where it is missing or of another type."""
    value = event.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataFormatError(f"{where} is damaged: {name} is {value!r}"[:300])
    return value


class SearchLog:
    """What has happened in a run: trials, confirmations, decisions, seconds spent.

    Attributes:
        trials: every trial so far, in order.
        searched: of these, the history as strategies see it: without final trainings.
        images: training images that those cost.
        measured: the first measurement of each network that was measured whole, by its key.
        closed: why the search phase ended, in words; None while it goes on.
        measuring_s, training_s: seconds spent on whole measurements and on evaluations (training,
            validation, importance), over every session of the run; a preparation is training.
        prepared_s: of these, the preparation's, which comes before the first proposal.
    """

    def __init__(self, run: RunFolder, emit: Emit) -> None:
        self.run = run
        self.trials: list[Trial] = []
        # Kept as trials come, so that the time of a search grows with their number and not with its square.
        self.searched: list[Trial] = []
        self.images = 0
        self.measured: dict[str, Measurement] = {}
        self._observed: list[tuple[bool, NetworkSpec, Measurement]] = []  # first: by a confirmation
        self._verdicts: list[tuple[int, Promise, Measurement]] = []
        self.closed: str | None = None
        self.measuring_s = 0.0
        self.training_s = 0.0
        self.prepared_s = 0.0
        self._emit = emit
        self._decided: dict[int, int] = {}  # decisions written, by number of trials at the time
        for event in run.events():
            self._remember(event)

    def _remember(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        where = f"{self.run.path / 'events.jsonl'}, event {kind!r}"
        if kind == "trial":
            trial = parse(Trial, _field(event, "trial", dict, where), where)
            if trial.index != len(self.trials):
                raise DataFormatError(
                    f"{where}: trial {trial.index} comes after {len(self.trials)} trials; events are missing "
                    "or of two processes. Search into a new folder"
                )
            self.trials.append(trial)
            self.images += images_of(trial)
            if trial.role != "final":
                self.searched.append(trial)
            if trial.measured is not None:
                self.measured.setdefault(trial.spec.key, trial.measured)
            if trial.measured is not None and event.get("measuring_s"):
                self._observed.append((False, trial.spec, trial.measured))
        elif kind == "confirm":
            index = _field(event, "index", int, where)
            if not 0 <= index < len(self.trials):
                raise DataFormatError(f"{where}: there is no trial {index}")
            measured = parse(Measurement, _field(event, "measured", dict, where), where)
            promise = parse(Promise, _field(event, "promise", dict, where), where)
            self._verdicts.append((index, promise, measured))
            if not promise.may_be_kept:  # as `winner` teaches the cost model
                self._observed.append((True, self.trials[index].spec, measured))
        elif kind == "closed":
            self.closed = _field(event, "text", str, where)
        elif kind == "infeasible":
            # A repeated command measures again, and trusts none of the measurements that failed. Promises for
            # other budgets of the search stay kept.
            self._observed = [one for one in self._observed if not one[0]]
            self._verdicts = [one for one in self._verdicts if one[1].verdict == "kept"]
        elif kind == "preparation":
            self.prepared_s += event.get("training_s", 0.0)
        elif "after" in event:
            after = _field(event, "after", int, where)
            self._decided[after] = self._decided.get(after, 0) + 1
        self.measuring_s += event.get("measuring_s", 0.0)
        self.training_s += event.get("training_s", 0.0)

    @property
    def observed(self) -> list[tuple[NetworkSpec, Measurement]]:
        """Networks measured as a whole, in the order in which the cost model learnt of them."""
        return [(spec, measured) for _, spec, measured in self._observed]

    def verdicts(self, index: int, budget: Budget) -> list[tuple[Promise, Measurement]]:
        """Every verdict on a trial for a budget, in the order of the tests."""
        return [
            (promise, measured)
            for at, promise, measured in self._verdicts
            if at == index and promise.is_about(budget)
        ]

    def _write(self, kind: str, fields: Mapping[str, Any], text: str) -> None:
        event = {**fields, "text": text}
        self.run.append(kind, event)
        self._remember({"event": kind, **event})
        self._emit(kind, event)

    def trial(self, trial: Trial, measuring_s: float, training_s: float, where: str = "") -> None:
        """Add a trial.

        Args:
            trial: what became of it.
            measuring_s: above zero says that its measurement is new, not another trial's.
            training_s: of its evaluation, where it ran.
            where: the machine that trained it, if it was not this process.
        """
        fields = {"measuring_s": round(measuring_s, 6), "training_s": round(training_s, 6)}
        place = {"where": where} if where else {}
        self._write("trial", {"trial": to_json(trial), **fields, **place}, describe(trial))

    def abandoned(self, trainings: int) -> None:
        """Note that trainings were stopped before they were done."""
        text = f"{trainings} trainings that had begun were stopped; a repeated command begins them again"
        self._write("abandoned", {"trainings": trainings}, text)

    def confirm(self, index: int, promise: Promise, measured: Measurement, measuring_s: float) -> None:
        """Add the verdict on a candidate winner."""
        parts = [
            f"{name}: {_verdict(one, measured.by_device[name])}" for name, one in promise.by_device.items()
        ]
        text = f"trial {index} measured whole: {'; '.join(parts) or _verdict(promise, measured)}"
        fields = {"index": index, "promise": to_json(promise), "measured": to_json(measured)}
        self._write("confirm", {**fields, "measuring_s": measuring_s}, text)

    def passed_over(self, index: int, promise: Promise) -> None:
        """Note that a winner did not keep its promise when it was tested again."""
        how = "was broken" if promise.verdict == "broken" else "could not be shown"
        text = (
            f"the promise of trial {index} {how} when it was tested again after its final training; the next "
            "candidate takes its place"
        )
        self._write("passed_over", {"index": index}, text)

    def decisions(self, decisions: Sequence[Decision]) -> None:
        """Add what a strategy decided at this point; what a killed session wrote is not written again."""
        after = len(self.trials)
        for decision in decisions[self._decided.get(after, 0) :]:
            self._write(decision.kind, {**decision.fields, "after": after}, decision.text)

    def close(self, why: str, *, said: bool = False) -> None:
        """Note that the search phase is over; only the winner is left to find.

        Args:
            why: the reason in words.
            said: whether a decision has told it already.
        """
        if said:
            self.run.append("closed", {"text": why})
            self._remember({"event": "closed", "text": why})
        else:
            self._write("closed", {}, why)

    def infeasible(self, why: str) -> None:
        """Note that no candidate kept the budget, so that a repeated command tries them again."""
        self._write("infeasible", {}, why)

    def result(self, result: SearchResult, *, complete: bool) -> None:
        """Write ``result.json`` and the closing event."""
        write_json(
            self.run.path / "result.json",
            {"schema": schemas.SEARCH, "complete": complete, **to_json(result)},
            sealed=True,
        )
        text = f"search ended: {result.stopped}; best is trial {result.best}"
        self._write("result", {"best": result.best, "complete": complete, "stopped": result.stopped}, text)

    def finished(self) -> SearchResult | None:
        """The result of a run that has come to its end, else None."""
        path = self.run.path / "result.json"
        if not path.exists():
            return None
        body = read_json(path, "search result", schemas.SEARCH, sealed=True)
        if not body.get("complete", True):
            return None
        # A command may have added fields of its own, such as the test accuracy.
        known = {name: value for name, value in body.items() if name in SearchResult.model_fields}
        return parse(SearchResult, known, path)


def images_of(trial: Trial) -> int:
    """Training images that a trial cost, its importance included."""
    if trial.evaluation is None:
        return 0
    return trial.evaluation.images + sum(one.images for one in trial.evaluation.importance)


def _verdict(promise: Promise, measured: Measurement) -> str:
    """What the test of a budget gave, in words."""
    at = format_ms(measured.at(promise.percentile))
    verdict = {"kept": "kept", "broken": "broken", "ambiguous": "not shown"}[promise.verdict]
    return (
        f"{promise.percentile} {at} of {format_ms(promise.budget_ms)}, "
        f"promise {verdict} ({len(promise.session_ms)} sessions, {promise.misses} over)"
    )


def predicted(cost: Estimate) -> str:
    """A prediction with its interval, in words; that of each device where there are several."""
    times: Mapping[str, Estimate | Interval] = cost.by_device or {"": cost}
    return ", ".join(
        f"{format_ms(one.latency_ms)} ({one.low_ms:.3g} to {one.high_ms:.3g})"
        + (f" on {name}" if name else "")
        for name, one in times.items()
    )


def describe(trial: Trial) -> str:
    """One line about a trial, in words."""
    head, bounds = f"trial {trial.index} {trial.spec.depths_text}", predicted(trial.estimate)
    if trial.evaluation is None:
        return f"{head}: {trial.error or trial.reason}"
    done = trial.evaluation
    took = f"{images_of(trial):,} images in {done.wall_s:.0f} s"
    role = "" if trial.role == "candidate" else f" [{trial.role}]"
    return f"{head}{role}: {100 * done.accuracy:.1f} % at {bounds}, {took}; {trial.reason}"
