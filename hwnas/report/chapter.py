"""One run as a chapter of the page: the sentence that says it, the proof, the pictures, the tables."""

from __future__ import annotations

import shlex
from dataclasses import replace

from hwnas import plugins
from hwnas.backends.formats import usual
from hwnas.deploy.manifest import EngineManifest
from hwnas.errors import InputError
from hwnas.estimates import Budget
from hwnas.measure.table import LatencyTable
from hwnas.records import Trial, trained
from hwnas.report import phrases
from hwnas.report.collect import RunData
from hwnas.report.page import Card, Chapter, Section
from hwnas.search.log import images_of
from hwnas.units import format_count, format_ms, format_seconds


def chapter(run: RunData, tag: str = "") -> Chapter:
    """The chapter of a run; `tag` keeps picture names apart on a page with several runs."""
    budget, best = run.budget, run.chosen
    found, broken = _sections(run)
    present = _filled([_named(section, tag) for section in found])
    headline, good = headline_of(run, budget, best)
    return Chapter(
        name=run.name,
        headline=headline,
        story=story(run, budget),
        good=good,
        cards=cards(run, budget, best),
        sections=present,
        missing=[*run.missing, *broken],
        commands=next_commands(run),
        warnings=run.warnings,
        used=_used(run, budget),
    )


def _sections(run: RunData) -> tuple[list[Section], list[str]]:
    """Every registered section of a run, and what is wrong with those of other packages."""
    found: list[Section] = []
    broken = []
    for name in plugins.as_listed("sections"):
        try:
            make = plugins.load("sections", name)
            with plugins.blamed("sections", name, "cannot be made"):
                made = make(run) or []
                made = made if isinstance(made, list) else [made]
                if not all(isinstance(one, Section) for one in made):
                    raise TypeError("it is no hwnas.report.page.Section")
            found += made
        except InputError as exc:
            broken.append(str(exc))
    return found, broken


def _named(section: Section, tag: str) -> Section:
    """The section with its picture names made unique on the page."""
    return replace(section, pictures=[replace(p, name=f"{p.name}{tag}") for p in section.pictures])


def _filled(found: list[Section]) -> list[Section]:
    """Half-wide sections stand in pairs; one without a partner takes the whole width."""
    laid, partner = list(found), False
    for at, section in enumerate(found):
        partner = section.half and not partner
        alone = at + 1 == len(found) or not found[at + 1].half
        if partner and alone:
            laid[at] = replace(section, half=False)
            partner = False
    return laid


def headline_of(run: RunData, budget: Budget | None, best: Trial | None) -> tuple[str, bool | None]:
    """The headline, and whether it is good news (None: neither)."""
    if run.result is not None and run.proof is not None and run.result.budget.latency_ms is not None:
        measured, verdict = run.proof
        _, accuracy = run.accuracy()
        top1 = f"{phrases.percent(accuracy)} top-1" if accuracy is not None else "accuracy unknown"
        failed = [engine.engine for engine in run.engines if engine.checks and not engine.passed]
        end = f", {failed[0]} failed its checks" if failed else ""
        text = f"{phrases.latency(measured, run.result.budget)}, {top1}, {phrases.promise(verdict)}{end}"
        why = phrases.unused(_used(run, budget), run.result.stopped)
        text += f"; {why}" if why else ""
        return text, verdict.verdict == "kept" and not failed
    if best is not None and best.evaluation is not None:
        text = f"Unfinished: {phrases.percent(best.evaluation.accuracy)} top-1 so far"
        if budget is not None and budget.latency_ms is not None:
            text += f", {phrases.pair_ms(best.estimate.latency_ms, budget.latency_ms)} predicted"
        return text, None
    for engine in run.engines:
        return _engine_headline(engine)
    if run.verb == "profile" and run.table is not None:
        return _table_headline(run.table), None
    split, accuracy = run.accuracy()
    if accuracy is not None:
        return f"{phrases.percent(accuracy)} top-1 on the {split} images", None
    return f"{run.verb} {run.name}: nothing to show yet", None


def _engine_headline(engine: EngineManifest) -> tuple[str, bool | None]:
    if engine.measured is None:
        return f"{engine.engine}: exported, not yet verified", None
    text = format_ms(engine.measured.median_ms)
    if engine.budget is not None and engine.budget.latency_ms is not None:
        text = phrases.latency(engine.measured, engine.budget)
    return f"{engine.engine}: {text}, {'verified' if engine.passed else 'verification failed'}", engine.passed


def _table_headline(table: LatencyTable) -> str:
    held = table.summary.get("holdout")
    error = held.get("mape_percent") if isinstance(held, dict) else None
    if not table.complete:
        return f"Incomplete latency table of {table.setting.device}, {len(table.rows)} blocks"
    if not isinstance(error, (int, float)):
        return f"Latency table of {table.setting.device}"
    return f"Latency of unseen networks on {table.setting.device}, {error:.1f} % off on average"


def story(run: RunData, budget: Budget | None) -> str:
    """The task and what was done, in two or three sentences."""
    result, parts = run.result, []
    setting = run.setting()
    if budget is not None and budget.latency_ms is not None:
        stat = phrases.statistic(budget.percentile)
        parts.append(
            f"The task was to find the most accurate network whose {stat} latency is at most "
            f"{format_ms(budget.latency_ms)}{f' on {setting.describe()}' if setting else ''}."
        )
    if run.verb == "profile" and run.table is not None:
        parts.append(f"What blocks and networks cost on {run.table.setting.describe()}, measured by hwnas.")
    if run.verb == "train" and not run.trials:
        parts.append(_training(run))
    if run.trials:
        done = len(trained(run.trials))
        refused = sum(t.state == "over_budget" for t in run.trials)
        space = run.trials[0].spec.space or "its space"
        parts.append(
            f"The search considered {len(run.trials)} networks of {space} and trained {done}"
            + (
                f"; {refused} {'was' if refused == 1 else 'were'} rejected before training as over the "
                "budget."
                if refused
                else "."
            )
        )
    if result is not None:
        parts.append(_proof(run))
        split, accuracy = run.accuracy()
        if accuracy is not None:
            once = (
                ", which were not used for any choice and were read once, at the end"
                if split == "test"
                else ""
            )
            parts.append(f"The accuracy was measured on the {split} images{once}.")
        if run.source:
            parts.append(f"The network was found by {run.source} and trained further here.")
        if result.stopped:
            parts.append(f"Why the search ended: {result.stopped}.")
    return " ".join(parts)


def _training(run: RunData) -> str:
    """What was trained, on what, for how long."""
    told = [f"{run.extra.get('network') or 'a network'} was trained"]
    told += [f"on {run.data}"] if run.data else []
    epochs, seconds = run.extra.get("epochs"), run.extra.get("seconds")
    told += [f"for {epochs:g} epochs"] if isinstance(epochs, (int, float)) else []
    told += [f"in {format_seconds(seconds)}"] if isinstance(seconds, (int, float)) else []
    return " ".join(told) + "."


def _proof(run: RunData) -> str:
    """How the budget was tested, in one sentence."""
    assert run.proof is not None
    verdict = run.proof[1]
    what = "The exported file" if any(engine.promise for engine in run.engines) else "The winner"
    return (
        f"{what} was loaded and timed again in {len(verdict.session_ms)} independent sessions; a network "
        "that is really over the budget would pass this test with a probability of at most "
        f"{100 * (1 - verdict.confidence):.2g} %."
    )


def cards(run: RunData, budget: Budget | None, best: Trial | None) -> list[Card]:
    """The large figures under the headline."""
    found = []
    result = run.result
    if result is not None and run.proof is not None:
        at = result.budget.percentile
        m = run.proof[0]
        found.append(
            Card(
                "Measured latency", format_ms(m.at(at)), f"{phrases.statistic(at)}; p95 {format_ms(m.p95_ms)}"
            )
        )
    if best is not None:
        e = best.estimate
        found.append(
            Card(
                "Predicted latency",
                format_ms(e.latency_ms),
                f"{e.coverage:.0%} within {format_ms(e.low_ms)} to {format_ms(e.high_ms)}",
            )
        )
        found += _accuracy_card(run, best)
        found += _balanced_card(run)
        found.append(
            Card(
                "Network",
                best.spec.depths_text,
                f"blocks per stage; {format_count(e.macs, 'MAC')}, {format_count(e.params, 'param')}",
            )
        )
    else:
        split, accuracy = run.accuracy()
        if accuracy is not None:
            found.append(Card(f"{split.capitalize()} accuracy", phrases.percent(accuracy)))
        found += _balanced_card(run)
    if run.trials:
        images = sum(map(images_of, run.trials))
        seconds = run.seconds()
        note = f"{images:,} training images"
        found.append(
            Card("Search", format_seconds(seconds) if seconds else f"{len(run.trials)} trials", note)
        )
    return found


def _accuracy_card(run: RunData, best: Trial) -> list[Card]:
    if best.evaluation is None:
        return []
    split, accuracy = run.accuracy()
    on_val, error = run.on_validation(best)
    validation = f"{phrases.percent(on_val)} ± {100 * error:.1f}"
    if split == "test" and accuracy is not None:
        return [Card("Test accuracy", phrases.percent(accuracy), f"validation {validation}")]
    return [Card("Validation accuracy", phrases.percent(on_val), f"± {100 * error:.1f}, standard error")]


def _balanced_card(run: RunData) -> list[Card]:
    figures = run.by_class()
    if figures is None:
        return []
    found = figures[1]
    note = f"mean over {len(found.classes)} classes; baseline {phrases.percent(found.base_line)}"
    return [Card("Balanced accuracy", phrases.percent(found.balanced_accuracy), note)]


def _used(run: RunData, budget: Budget | None) -> float | None:
    if run.proof is None or budget is None or budget.latency_ms is None:
        return None
    return run.proof[0].at(budget.percentile) / budget.latency_ms


def next_commands(run: RunData) -> list[str]:
    """The commands to type next, with what each does."""
    where = str(run.path)
    if run.verb == "search" and run.result is None:
        argv = run.manifest.get("argv")
        again = shlex.join(map(str, argv)) if isinstance(argv, list) and argv else "search ..."
        out = "" if "--out" in again else f" --out {where}"
        return [f"hwnas {again}{out}   # continues where it stopped"]
    if run.engines:
        return [f"hwnas verify {run.path / run.engines[0].engine}   # the same checks again, on any machine"]
    if run.result is not None or run.network is not None:
        setting = run.setting()
        target = usual(setting.backend if setting else "")
        return [
            f"hwnas export {where} --format {target}   # an engine file, with its outputs and its latency "
            "checked",
            f"hwnas train {where} --epochs 100   # train the chosen network for longer",
        ]
    table = f" --table {where}" if run.verb == "profile" else ""
    return [f"hwnas search --latency-budget 18ms --data folder:IMAGES{table}   # find a network"]
