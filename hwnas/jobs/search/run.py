"""`hwnas search`: the most accurate network that keeps a latency budget, from table to trained weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas import executors, plugins, runs
from hwnas import options as option_values
from hwnas.cost.model import cost_model
from hwnas.cost.several import DeviceCost, SeveralDevices
from hwnas.errors import DeviceUnavailable, HwnasError, MissingMeasurement
from hwnas.jobs import own_model, predict
from hwnas.jobs.preparations.prepare import Facts, Prepared, prepare
from hwnas.jobs.profile.choose import is_open, takes
from hwnas.jobs.search import first_table, plan, several
from hwnas.jobs.search.options import FAMILIES, STRATEGY, SearchOptions
from hwnas.jobs.search.parts import Here, NetworkBuilder, OnThreads, figures, test_once, training_rate
from hwnas.jobs.search.result import SearchOutcome
from hwnas.measure import device as devices
from hwnas.measure import reliability
from hwnas.measure.patience import Patience
from hwnas.measure.table import LatencyTable
from hwnas.nets import families, spaces
from hwnas.protocols import CostModel, Emit, Executor, Move, Needs, SearchContext, SearchSpace
from hwnas.records import Budget, Estimate, Proposal, SearchResult, Setting, to_json
from hwnas.results import DryRun
from hwnas.runs import RunFolder
from hwnas.search import driver
from hwnas.search.importance import judge as importance
from hwnas.search.state import Limits
from hwnas.search.strategy import Judging, asked, find, made
from hwnas.search.winner import refuse_infeasible
from hwnas.spec import NetworkSpec
from hwnas.train.options import Recipe

if TYPE_CHECKING:
    from hwnas.jobs.search.spread import Spread
    from hwnas.protocols import Importance
    from hwnas.train.data import Dataset, Outline
    from hwnas.train.evaluator import Evaluator
    from hwnas.train.options import Recipe

__all__ = ["SearchOptions", "search"]

# Training images that an importance is given; half of them may be held out.
JUDGED = 6000
CONDITIONS = ("backend", "precision", "batch", "threads")


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
        from hwnas.train.data import load, outline

        if options.model is not None:
            options = replace(options, strategy="fit")
        self.options, self.emit, self.begun = options, emit, time.monotonic()
        self.folder: RunFolder | None = None
        self.executor: Executor | None = None  # None trains one network after the other in this process
        self.options = options = replace(options, strategy=options.strategy or self._strategy_of_run())
        # What the user wrote is checked first: neither a table nor images are read for a slip.
        self.recipe = self._recipe()
        self._check_settings()
        self.preset = plan.preset(options.preset)
        if options.model is not None and options.input_shape is None:
            shape = own_model.stated_input(options.model, options.weights)
            self.options = options = replace(options, input_shape=shape)
        early = self._table()
        if options.data is None:
            self.options = options = self._on_digits(early)
        self.data = str(options.data)
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
        self.options = options = replace(options, space=self.space.name, strategy=self._strategy())
        self.table = self._covering(early)
        reliability.require(self.table, options.insist)
        self.notes = [
            *about.notes,
            *own_model.notes(self.space),
            *self.table.warnings,
            *plan.check_coverage(self.table, self.space),
            *predict.priced_heads(self.table, [self.space.smallest()]),
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
        o, found = self.options, []
        manifest = self._manifest()
        known = runs.read_manifest(manifest.parent)["config"].get("devices") if manifest is not None else None
        for at, (device, text) in enumerate([(str(o.device), o.latency_budget), *o.further]):
            table = self.table
            if at:
                other = copy.copy(self)
                path = Path(known[at]["table"]) if known else None
                other.options = replace(o, device=device, latency_budget=text, further=(), table=path)
                table = other._covering(other._table(self.space.smallest()))
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
        name = o.space or self._profiled(early) or spaces.advised(shape)
        return spaces.make(name, input_shape=shape, classes=classes)

    def _strategy(self) -> str:
        """The strategy by name; the recommended one of the space where that is asked for."""
        asked = str(self.options.strategy)
        return FAMILIES if asked == STRATEGY and self.space.name == families.NAME else asked

    def _on_digits(self, early: LatencyTable | None) -> SearchOptions:
        """The built-in images, in the size that was profiled or that the device is usually asked for."""
        o, text = self.options, "no --data given: searching on the built-in digits data set"
        if o.input_shape is None and o.model is None:
            usual = devices.usual(o.device) if early is None and o.space is None and o.device else None
            if early is not None and o.space in (None, early.header.space):
                o = replace(o, input_shape=early.header.input_shape)
            elif usual is not None:
                shape = spaces.make(usual.space).smallest().input_shape
                o = replace(o, space=usual.space, batch=o.batch or usual.batch, input_shape=shape)
            if o.input_shape is not None:
                text += f", resized to {'x'.join(map(str, o.input_shape))}, the images that were profiled"
        self.emit("note", {"text": f"{text}; name your images with --data"})
        return replace(o, data="digits")

    def _profiled(self, early: LatencyTable | None) -> str:
        """The space of the newest table, which was profiled to be searched; empty where it does not fit."""
        if early is None or early.header.space not in plugins.names("spaces"):
            return ""
        of_these = early.header.input_shape == self.about.input_shape and self._good(early)
        return early.header.space if of_these or self.options.table is not None else ""

    def _covering(self, early: LatencyTable | None) -> LatencyTable:
        """`early` or an older table that covers the space; where none is, a new one."""
        smallest = self.space.smallest()
        if early is not None and early.covers(smallest) and self._good(early):
            return early
        found = self._table(smallest)  # an older one may be of these images
        named = self.options.table is not None or self._manifest() is not None
        if found is not None and (
            named or not self.options.profile or (found.covers(smallest) and self._good(found))
        ):
            return found
        return first_table.measure(self.options, self.space, self.emit, self._left_s())

    def _left_s(self) -> float | None:
        """Seconds of ``--max-time`` that are left; None without a limit. A first profile counts as well."""
        limit_s = self.options.max_time_s
        return None if limit_s is None else max(limit_s - (time.monotonic() - self.begun), 0.0)

    def _good(self, table: LatencyTable) -> bool:
        """Whether a table that the user did not name is to be gone by; else a new one is measured."""
        named = self.options.table is not None or self._manifest() is not None or not self.options.profile
        return named or self.options.insist or not reliability.refused(table)

    def _table(self, *specs: NetworkSpec) -> LatencyTable | None:
        """The user's table; on resuming, the run's; else the newest of the conditions that covers `specs`.

        None where there is none and one may be measured.
        """
        o = self.options
        named = Path(o.table) if o.table is not None else self._table_of_run()
        conditions = {name: getattr(o, name) for name in CONDITIONS}
        for name in ("backend", "precision"):  # what is left open is looked at in the table
            if is_open(conditions[name], None):
                conditions[name] = None
        try:
            found = predict.find(named, specs, device=o.device, space=o.space, **conditions)
            if takes(o.backend, found.setting.backend) and takes(o.precision, found.setting.precision):
                return found
            raise MissingMeasurement(
                f"table {found.table_id} is of {found.setting.describe()}; --backend {o.backend} --precision "
                f"{o.precision} asks for another"
            )
        except MissingMeasurement:
            if named is not None or not o.profile:
                raise
            return None

    def _table_of_run(self) -> Path | None:
        manifest = self._manifest()
        if manifest is None:
            return None
        table = runs.read_manifest(manifest.parent)["config"].get("table")
        return Path(table) if isinstance(table, str) and Path(table).is_file() else None

    def _strategy_of_run(self) -> str:
        """That of the run that is resumed: a default may have changed since it began."""
        manifest = self._manifest()
        known = (
            runs.read_manifest(manifest.parent)["config"].get("strategy") if manifest is not None else None
        )
        return known if isinstance(known, str) else STRATEGY

    def _manifest(self) -> Path | None:
        """The manifest of the run that is resumed; None for a new one."""
        manifest = self.options.out / "manifest.json" if self.options.out is not None else None
        return manifest if manifest is not None and manifest.is_file() else None

    def _given(self) -> dict[str, Any]:
        """Options of the strategy that the user gave."""
        named = {name: getattr(self.options, name) for name in ("importance", "fidelity")}
        return {**self.options.settings, **{k: v for k, v in named.items() if v is not None}}

    def _check_settings(self) -> None:
        o = self.options
        # Where all families are searched, their options, which are those of one and more.
        raced = o.strategy == STRATEGY and o.space == families.NAME
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
        bencher, setting = self._measures()
        if self._manifest() is None:  # a search that cannot begin leaves no folder behind
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
        prepared = prepare(type(self.strategy), self._facts(run))
        if prepared is not None:
            self._use(prepared)
        result = self._drive(run, bencher, setting)
        extra = test_once(run, result, self.dataset, self.data)
        if "text" in extra:
            self._say(run, extra.pop("text"))
        runs.link_latest(run.path)
        tables = {one.name: str(one.table.path) for one in self.devices}
        body = {**figures(result, prepared, tables), **extra}
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
            recipe=self._recipe(),
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

    def _measures(self) -> tuple[several.Measures, Setting]:
        """What measures networks whole: here, or on the executor; and the setting there, of the first device.

        Raises:
            DeviceUnavailable: a device is not there, so that no winner could be measured.
        """
        elsewhere = self.executor is not None and self.executor.times_elsewhere
        tables = self._tables()
        made = [self._elsewhere(table) if elsewhere else self._here(table) for table in tables]
        if len(made) == 1:
            return made[0]
        benchers = {table.setting.device: bencher for table, (bencher, _) in zip(tables, made)}
        return several.Together(benchers), made[0][1]

    def _here(self, table: LatencyTable) -> tuple[several.Measures, Setting]:
        s, o = table.setting, self.options
        asked = o.device if table is self.table else self._asked(s.device)
        devices.refuse_unasked(s, asked, f"table {table.table_id}")
        try:
            runtime, setting = devices.conditions(
                s.device,
                s.backend,
                precision=s.precision,
                batch=s.batch,
                threads=s.threads,
                choices=s.choices,
            )
        except HwnasError as exc:
            raise DeviceUnavailable(
                f"table {table.table_id} is of {s.describe()}, and the winner of a search is measured "
                f"before it is accepted, which is not possible here: {exc}"
            ) from exc
        patience = Patience(o.patience_s, emit=self.emit)
        builder = NetworkBuilder(runtime, setting, o.seed, patience, table.sentinel_ms)
        return Here(builder, self.emit), setting

    def _asked(self, device: str) -> str | None:
        """What the user wrote for a further device."""
        return next((name for name, _ in self.options.further if devices.spelling(name) == device), None)

    def _elsewhere(self, table: LatencyTable) -> tuple[several.Measures, Setting]:
        from hwnas.jobs.search.spread import Bencher
        from hwnas.jobs.search.tasks import Bench

        assert self.executor is not None
        bench = Bench(table.setting, self.options.seed, table.sentinel_ms)
        bencher = Bencher(self.executor, bench, self.options.patience_s)
        return bencher, bencher.conditions()

    def _drive(self, run: RunFolder, bencher: several.Measures, setting: Setting) -> SearchResult:
        return driver.search(
            self.strategy,
            self.context,
            evaluate=self._trainer(run),
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
            pace=lambda spec: training_rate(spec, self._recipe()),
        )

    def _trainer(self, run: RunFolder) -> Evaluator | Spread:
        """Trains here, or on the executor: apart from what is timed where there are machines for both."""
        from hwnas.jobs.search.spread import Spread

        evaluator, executor = self._evaluator(run), self.executor
        if executor is None:
            return evaluator
        recipe, device = self._recipe(), self.table.setting.device
        apart = self.options.measure and executor.apart(device)
        needs = Needs(recipe.threads or 1, int(recipe.device == "cuda"), avoid=device if apart else None)
        in_waves = self.options.measure and not apart
        return Spread(executor, evaluator, run.path, self._growths, needs, in_waves, self.emit)

    def _config(self) -> dict[str, Any]:
        """All that decides the result."""
        o = asdict(self.options)
        for name in (
            "out",
            "strict",
            "insist",
            "dry_run",
            "executor",
            "jobs",
            "max_time_s",
            "patience_s",
            "profile",
            "device",
            "further",
            "backend",
            "precision",
            "batch",
            "threads",
        ):
            del o[name]
        if self.devices:
            o["devices"] = [{**to_json(one.record()), "table": str(one.table.path)} for one in self.devices]
        if self.options.model is None:
            for name in ("model", "weights", "repeats", "trainer"):
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

    def _recipe(self) -> Recipe:

        return option_values.read(Recipe, self.options.recipe, "training option")

    def _evaluator(self, run: RunFolder) -> Evaluator:
        from hwnas.train import own
        from hwnas.train.evaluator import Evaluator

        judging = self._judging()
        held_out = judging is not None and judging.held_out
        return Evaluator(
            self.dataset,
            self._recipe(),
            run.path,
            self._importance(),
            self.options.seed,
            self.emit,
            growths=self._growths,
            importance_images=min(JUDGED, len(self.dataset.val if held_out else self.dataset.train)),
            held_out=held_out,
            final_jobs=self.options.jobs if self.options.executor == "local" else 1,
            trainer=None if self.options.trainer is None else own.trainer(self.options.trainer),
            # Which compares networks as they are.
            ask_guessers=judging is not None and judging.importance == "vip",
        )

    def _judging(self) -> Judging | None:
        with asked(self.strategy, "asks_importance"):
            return self.strategy.asks_importance()

    def _growths(self, proposal: Proposal) -> list[Move]:
        with asked(self.strategy, "growths"):
            return self.strategy.growths(proposal)

    def _importance(self) -> Importance | None:
        """The importance that the strategy asks for; None where it looks at accuracies alone."""
        from hwnas.train.precision import choose

        judging = self._judging()
        if judging is None:
            return None
        recipe = self._recipe()
        autocast = choose(recipe).autocast
        found = importance.make(
            judging.importance, images=judging.images, autocast=autocast, group=judging.group
        )
        return found if recipe.threads is None else OnThreads(found, recipe.threads)

    def _say(self, run: RunFolder, text: str) -> None:
        run.append("note", {"text": text})
        self.emit("note", {"text": text})

    def _fits(self, spec: NetworkSpec) -> bool:
        return self.context.budget.fits(self.context.estimate(spec))

    def dry(self) -> DryRun:
        """What would be done."""

        refuse_infeasible(self.context, self.goals)
        fitting = [spec for spec in self.space.uniform() if self._fits(spec)] or [self.space.smallest()]
        rate = training_rate(fitting[-1], self._recipe())
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
