"""`hwnas search`: the most accurate network that keeps a latency budget, from table to trained weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas import executors, runs
from hwnas import options as option_values
from hwnas.cost.model import cost_model
from hwnas.cost.several import DeviceCost, SeveralDevices
from hwnas.estimates import Budget, Estimate
from hwnas.jobs import own_model, own_pixels, predict
from hwnas.jobs.preparations.prepare import Facts, Prepared, prepare
from hwnas.jobs.resolve import initial
from hwnas.jobs.resolve.trained import rescale
from hwnas.jobs.search import first_table, plan, several, which_space
from hwnas.jobs.search.benches import Benches
from hwnas.jobs.search.options import FAMILIES, STRATEGY, SearchOptions
from hwnas.jobs.search.parts import figures, test_once, training_rate
from hwnas.jobs.search.result import SearchOutcome
from hwnas.jobs.search.resumed import Resumed
from hwnas.jobs.search.trainers import Trainers
from hwnas.jobs.search.which_table import TableChoice
from hwnas.measure import reliability
from hwnas.measure.table import LatencyTable
from hwnas.nets import families, spaces
from hwnas.protocols import CostModel, Emit, Executor, SearchContext, SearchSpace
from hwnas.records import SearchResult, Setting, to_json
from hwnas.results import DryRun
from hwnas.runs import RunFolder
from hwnas.search import driver
from hwnas.search.state import Limits
from hwnas.search.strategy import find, made
from hwnas.search.winner import refuse_infeasible
from hwnas.spec import NetworkSpec
from hwnas.train.options import Recipe

if TYPE_CHECKING:
    from hwnas.train.data import Dataset
    from hwnas.train.outline import Outline

__all__ = ["SearchOptions", "search"]

# Options that decide how a search is done and not what it gives, and conditions, which are the table's.
_APART = (
    *("out", "strict", "insist", "dry_run", "executor", "jobs", "max_time_s", "patience_s", "profile"),
    *("device", "further", "backend", "precision", "batch", "threads"),
)


def search(options: SearchOptions, emit: Emit | None = None) -> SearchOutcome | DryRun:
    """Search, train the winner out, measure it, and read the test split once.

    Returns:
        The winner and what was tried; with `dry_run` what would be.

    Raises:
        InputError: an option is wrong, or `out` holds another run.
        BudgetInfeasible: no network fits; names the smallest reachable latency.
        BackendUnavailable: the table's device or runtime is not here, so no winner could be measured.
        MissingMeasurement: there is no table for the space; names the command that makes one.
        DataFormatError: data or table are damaged.
    """
    emit = emit or (lambda kind, fields: None)
    try:
        job = _SearchJob(options, emit)
    except first_table.NotYet as found:
        return found.dry(options)
    return job.dry() if options.dry_run else job.run()


class _SearchJob:
    """One call of `search`: everything composed, nothing touched until `run`."""

    def __init__(self, options: SearchOptions, emit: Emit) -> None:
        from hwnas.train.data import load
        from hwnas.train.outline import outline

        if options.model is not None:
            options = replace(options, strategy="fit")
        self.options, self.emit, self.begun = options, emit, time.monotonic()
        self.resumed = Resumed(options.out)
        self.folder: RunFolder | None = None
        self.executor: Executor | None = None  # None trains one network after the other in this process
        self.options = options = replace(
            options, strategy=options.strategy or self.resumed.strategy or STRATEGY
        )
        # What the user wrote is checked first: neither a table nor images are read for a slip.
        self.recipe: Recipe = option_values.read(Recipe, options.recipe, "training option")
        self._check_settings()
        self.preset = plan.preset(options.preset)
        if options.model is not None and options.input_shape is None:
            shape = own_model.stated_input(options.model, options.weights)
            self.options = options = replace(options, input_shape=shape)
        early = self._tables_for(options).find()
        if options.data is None:
            self.options = options = which_space.on_digits(options, early, emit)
        self.data = str(options.data)
        given = initial.named(options.init, data=self.data, seed=options.seed, limit=options.limit)
        data: dict[str, Any] = {
            "input_shape": options.input_shape,
            "seed": options.seed,
            "limit": options.limit,
            "strict": options.strict,
        }
        about: Outline | Dataset
        if options.dry_run:  # which is quick and decodes nothing
            about = outline(self.data, **data)
            train_images = about.train
        else:
            self.dataset = load(self.data, **data)
            about, train_images = self.dataset, len(self.dataset.train)
            if self.recipe.flip is not None:
                self.dataset.mirrors = self.recipe.flip  # super-networks, too, train as the recipe says
        self.about, self.train_images = about, train_images
        self.space = self._space(early)
        one_family = which_space.one_family(options, self.space, early, resumed=self.resumed.there)
        self.start = initial.start(given, self.space, about.classes)
        if not options.dry_run:  # images are on the scale of these weights
            rescale(self.dataset, None if given is None else given.network)
        self.options = options = replace(options, space=self.space.name, strategy=self._strategy())
        self.table = self._tables_for(options).covering(early, self.space)
        reliability.require(self.table, options.insist)
        self.notes = [
            *about.notes,
            *self.start.notes,
            *own_model.notes(self.space),
            *one_family,
            *self._normalised(),
            *self.table.warnings,
            *plan.check_coverage(self.table, self.space),
            *predict.priced_heads(self.table, [self.space.smallest()]),
            *plan.check_latency(self.table, first_table.budgets_ms(options.latency_budget)),
        ]
        self.devices = self._several() if options.further else []
        self.model: CostModel | SeveralDevices
        estimate: Callable[[NetworkSpec], Estimate]
        if self.devices:
            self.model = together = SeveralDevices({one.name: one.cost for one in self.devices})
            estimate = together.estimate
            self.budgets, self.goals = several.steps(self.devices), several.goals(self.devices)
            self.notes.append(several.SCALE)
        else:
            self.model, self.budgets, estimate = self._priced(self.table, options.latency_budget)
            self.goals = self.budgets
        self.images = options.images or self.preset.images_of(train_images)
        self.strategy_options = self._strategy_options()
        self.context = SearchContext(self.space, estimate, self.budgets[-1], self.strategy_options)
        self.strategy = made(str(options.strategy), self.context)

    def _normalised(self) -> list[str]:
        """Give a model of the user's own its images on the scale that it was trained on; what was found."""
        if self.options.model is None or self.options.dry_run:
            return []
        if self.options.normalise == "auto":  # which takes a while with large images
            self.emit("note", {"text": "looking for the scale of pixels that the model was trained on"})
        return own_pixels.normalised(self.space, self.dataset, self.options.normalise, self.options.weights)

    def _priced(
        self, table: LatencyTable, text: str
    ) -> tuple[CostModel, list[Budget], Callable[[NetworkSpec], Estimate]]:
        """The cost model of a table, the budgets that a text means by it, and estimates at its percentile."""
        o, model = self.options, cost_model(table)
        budgets = plan.budgets(text, model, o.max_macs, o.max_params, o.max_memory, space=self.space)
        tail = plan.TailModel(model, plan.tail_factor(table, budgets[0].percentile))
        return model, budgets, tail.estimate

    def _several(self) -> list[several.OneDevice]:
        """The devices of a search for several; a table of each, which is measured where there is none."""
        o, found, known = self.options, [], self.resumed.devices
        for at, (device, text) in enumerate([(str(o.device), o.latency_budget), *o.further]):
            table = self.table
            if at:
                path = Path(known[at]["table"]) if known else None
                other = replace(o, device=device, latency_budget=text, further=(), table=path)
                choice = self._tables_for(other)
                table = choice.covering(choice.find(self.space.smallest()), self.space)
                reliability.require(table, o.insist)
                self.notes += [*table.warnings, *plan.check_coverage(table, self.space)]
            model, (budget,), estimate = self._priced(table, text)
            assert budget.latency_ms is not None
            found.append(several.OneDevice(table, DeviceCost(estimate, model, budget.latency_ms), budget))
        several.check(found, str(o.strategy))
        return found

    def _space(self, early: LatencyTable | None) -> SearchSpace:
        """The user's model with its variants; or the space asked for, that of the table, the usual one."""
        o, shape, classes = self.options, self.about.input_shape, len(self.about.classes)
        if o.model is not None:
            return own_model.space(o.model, o.weights, input_shape=shape, classes=classes, repeats=o.repeats)
        name = o.space or self._tables_for(o).space_of(early, shape) or which_space.usual(o, shape)
        return spaces.make(name, input_shape=shape, classes=classes)

    def _strategy(self) -> str:
        """The strategy by name; the recommended one of the space where that is asked for."""
        asked = str(self.options.strategy)
        return FAMILIES if asked == STRATEGY and self.space.name == families.NAME else asked

    def _tables_for(self, options: SearchOptions) -> TableChoice:
        return TableChoice(options, self.resumed, self.emit, self._left_s)

    def _left_s(self) -> float | None:
        """Seconds of ``--max-time`` that are left; None without a limit. A first profile counts as well."""
        limit_s = self.options.max_time_s
        return None if limit_s is None else max(limit_s - (time.monotonic() - self.begun), 0.0)

    def _given(self) -> dict[str, Any]:
        """Options of the strategy that the user gave."""
        named = {name: getattr(self.options, name) for name in ("importance", "fidelity")}
        return {**self.options.settings, **{k: v for k, v in named.items() if v is not None}}

    def _check_settings(self) -> None:
        o = self.options
        # Where all families may be searched, their options, which are those of one and more.
        raced = o.strategy == STRATEGY and o.space in (None, families.NAME) and o.model is None
        find(FAMILIES if raced else str(o.strategy)).read_options(self._given())

    def _strategy_options(self) -> dict[str, Any]:
        o, given = self.options, self._given()
        return plan.strategy_options(str(o.strategy), self.preset, self.images, self.budgets, given)

    def run(self) -> SearchOutcome:
        """Search into the run folder."""
        with ExitStack() as stack:
            stack.callback(self._close)
            return self._begin()

    def _begin(self) -> SearchOutcome:
        o = self.options
        if (o.executor, o.jobs) != ("local", 1):
            self.executor = executors.made(
                o.executor, jobs=o.jobs, device=self.table.setting.device, emit=self._heard
            )
        bencher, setting = Benches(o, self.executor, self.emit).made(self._tables())
        if not self.resumed.there:  # a search that cannot begin leaves no folder behind
            refuse_infeasible(self.context, self.goals)
        with closing(RunFolder(self.options.out or runs.reserve("search"), "search", self._config())) as run:
            return self._run(run, bencher, setting)

    def _heard(self, kind: str, fields: Mapping[str, Any]) -> None:
        """What a task on the executor tells; where one began is kept, for `hwnas runs`."""
        if kind == "began" and self.folder is not None:
            self.folder.append(kind, fields)
        self.emit(kind, fields)

    def _close(self) -> None:
        if self.executor is not None:
            self.executor.close()

    def _run(self, run: RunFolder, bencher: several.Measures, setting: Setting) -> SearchOutcome:
        self.folder = run
        self.emit("run", {"run": str(run.path), "text": f"run folder {run.path}"})
        for table in self._tables():
            self._say(run, f"table {table.path} ({table.setting.describe()})")
        self._say(run, self.dataset.describe())
        for note in self.notes:
            self._say(run, note)
        device = self.table.setting.device
        prepared = prepare(type(self.strategy), self._facts(run), self._trainers().preparing(device))
        if prepared is not None:
            self._use(prepared)
        result = self._drive(run, bencher, setting)
        extra = test_once(run, result, self.dataset, self.data)
        if "text" in extra:
            self._say(run, extra.pop("text"))
        runs.link_latest(run.path)
        tables = {one.name: str(one.table.path) for one in self.devices}
        body = {**figures(result, prepared, tables), **extra}
        if self.start.notes:
            body["began_from"] = self.start.notes[0]
        for target, found in zip(body.get("targets", ()), body.pop("target_figures")):
            target.update(found)
        return SearchOutcome.of({**body, "run": str(run.path), "table": str(self.table.path)})

    def _facts(self, run: RunFolder) -> Facts:
        left_s = self._left_s()
        return Facts(
            space=self.space,
            dataset=self.dataset,
            estimate=self.context.estimate,
            table=self.table,
            budgets=self.budgets,
            images=self.images,
            settings=self.strategy_options,
            recipe=self.recipe,
            seed=self.options.seed,
            run=run,
            emit=self.emit,
            seconds=None if left_s is None else Limits.search_share * left_s,
        )

    def _use(self, prepared: Prepared) -> None:
        """Rebuild the strategy with what was prepared; the images that it took are gone."""
        self.images -= prepared.images
        fresh: dict[str, Any] = {"scores": prepared.scores}
        if "images" in self.strategy_options:
            fresh["images"] = self.images
        self.context = replace(self.context, options={**self.strategy_options, **fresh})
        self.strategy = made(str(self.options.strategy), self.context)

    def _tables(self) -> list[LatencyTable]:
        """The table of every device."""
        return [one.table for one in self.devices] or [self.table]

    def _trainers(self) -> Trainers:
        o = self.options
        return Trainers(
            o, self.recipe, self.strategy, self.dataset, self.executor, self.emit, self.start.initial
        )

    def _drive(self, run: RunFolder, bencher: several.Measures, setting: Setting) -> SearchResult:
        return driver.search(
            self.strategy,
            self.context,
            evaluate=self._trainers().made(run.path, self.table.setting.device),
            confirm=bencher.confirm,
            measure=bencher.measure if self.options.measure else None,
            observe=self.model.observe,
            run=run,
            setting=setting,
            table_id=self.table.table_id,
            seed=self.options.seed,
            limits=Limits(self.options.max_trials, self.images, self._left_s()),
            emit=self.emit,
            targets=self.goals,
            devices=[one.record() for one in self.devices],
            distill=self.options.distill,
            pace=lambda spec: training_rate(spec, self.recipe),
        )

    def _config(self) -> dict[str, Any]:
        """All that decides the result."""
        o = asdict(self.options)
        for name in _APART:
            del o[name]
        if self.devices:
            o["devices"] = [{**to_json(one.record()), "table": str(one.table.path)} for one in self.devices]
        if self.start.initial is None:
            del o["init"]
        o |= self.start.identity
        if self.options.model is None:
            for name in ("model", "weights", "repeats", "trainer", "normalise"):
                del o[name]
        else:
            o |= own_model.identity(self.space, self.options.weights)
        return {
            **o,
            "table": str(self.table.path),
            "table_id": self.table.table_id,
            "table_error_percent": reliability.error_percent(self.table),
            "setting": to_json(self.table.setting),
            "data_fingerprint": self.dataset.fingerprint,
            "budgets": [to_json(budget) for budget in self.goals],
            "images": self.images,
            "strategy_options": self.strategy_options,
        }

    def _say(self, run: RunFolder, text: str) -> None:
        run.append("note", {"text": text})
        self.emit("note", {"text": text})

    def dry(self) -> DryRun:
        """What would be done."""
        refuse_infeasible(self.context, self.goals)
        fitting = [s for s in self.space.uniform() if self.context.budget.fits(self.context.estimate(s))] or [
            self.space.smallest()
        ]
        rate = training_rate(fitting[-1], self.recipe)
        body = {
            "dry_run": True,
            "run": str(self.options.out or runs.next_path("search")),
            "table": str(self.table.path),
            "conditions": "; ".join(table.setting.describe() for table in self._tables()),
            "data": self.about.describe(),
            "budgets": [budget.describe() for budget in self.goals],
            "strategy": self.options.strategy,
            "strategy_options": dict(self.strategy_options),
            "images": self.images,
            "epochs": self.images / self.train_images,
            "images_per_s": rate,
            "seconds": min(self.images / rate, self.options.max_time_s or math.inf),
            "notes": self.notes,
        }
        return DryRun.of(body)
