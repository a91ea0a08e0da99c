"""Deploying: ``export``, ``verify``, ``report``."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hwnas import runs, schemas
from hwnas.by_block import Mixed
from hwnas.by_class import ByClass
from hwnas.errors import VerificationFailed
from hwnas.units import format_ms

from . import classes, console, options, param_types
from .console import Output, common
from .endings import error

budget = options.latency_budget(
    many=False, text="Check this budget, for example 18ms@p95.  [default: the search's]"
)
images = click.option(
    "--images", type=param_types.COUNT, metavar="N", help="Number of images to compare.  [default: 512]"
)


def _any_batch() -> list[str]:
    from hwnas.backends import formats  # not needed unless the help is shown

    return [f.name for f in formats.every() if f.any_batch]


@click.command()
@click.argument("run", required=False)
@click.option(
    "--format",
    type=param_types.Registered("formats"),
    default="onnx",
    show_default=True,
    help="Engine format.",
)
@options.options(
    options.precision, options.device, options.gpu, options.backend, options.profiles, options.threads
)
@click.option("--weights", type=click.Path(path_type=Path), help="Weights, where RUN is a network file.")
@options.options(options.data, budget, images, options.max_loss)
@click.option(
    "--dynamic-batch",
    cls=options.Late,
    late=_any_batch,
    is_flag=True,
    help="Allow any batch size ({}).",
)
@options.options(options.compatible, options.dla)
@click.option("--verify/--no-verify", default=True, help="Compare outputs and measure the latency.")
@options.options(
    options.sustained, options.own_function, options.max_time, options.patience, options.out, options.wait
)
@common
def export(ui: Output, max_time: float | None, **chosen: Any) -> None:
    """Write an engine of RUN with its manifest; prove its outputs and its latency.

    RUN is a run, a target of a run or a network file.  [default: the newest search or training]
    Exits 5 when a check fails; the engine and its manifest are kept and say so.
    """
    from hwnas.jobs.export import ExportOptions
    from hwnas.jobs.export import export as job

    if (batches := chosen.pop("batches")) is not None:
        batches = tuple(sorted(batches))
        chosen |= {"batch": batches[-1], "batches": batches if len(batches) > 1 else ()}
    wanted = ExportOptions(**options.given(max_time_s=max_time, **chosen))
    body = _proved(ui, schemas.EXPORT, lambda: job(wanted, ui.emit).as_json())
    run = chosen["run"]
    if body["verified"] and (run is None or Path(run).is_dir()):  # a report is about a run
        ui.next(f"hwnas report {run or ''}".rstrip())
    else:
        device = str(body["setting"]["device"])
        far = f" --device {shlex.quote(device)}" if "://" in device else ""
        ui.next(f"hwnas verify {body['engine']}{far}")


@click.command()
@click.argument("engine")
@click.option(
    "--against", metavar="RUN", help="Network and weights.  [default: the run that contains the engine]"
)
@options.options(options.device, options.gpu, options.data, budget, images)
@options.options(options.sustained, options.own_function, options.max_time, options.patience)
@common
def verify(ui: Output, max_time: float | None, **chosen: Any) -> None:
    """Check an engine again, on the file as it is now. Exits 5 when a check fails.

    ENGINE is an engine file, or a folder that holds one.
    """
    from hwnas.jobs.verify import VerifyOptions
    from hwnas.jobs.verify import verify as job

    wanted = VerifyOptions(**options.given(max_time_s=max_time, **chosen))
    _proved(ui, schemas.VERIFY, lambda: job(wanted, ui.emit).as_json())
    given = Path(wanted.engine)
    folder = given if given.is_dir() else given.parent
    ui.next(f"hwnas report {shlex.quote(str(folder)) if runs.is_run(folder) else ''}".rstrip())


def _proved(ui: Output, schema: str, job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a job and show its checks, also those of one that failed before its error is raised."""
    failed: VerificationFailed | None = None
    try:
        body = job()
    except VerificationFailed as exc:
        if exc.result is None:
            raise
        failed, body = exc, dict(exc.result)
    ui.result(schema, body, lambda: _checks(body))
    if failed is not None:
        error(str(failed))
        click.get_current_context().exit(failed.exit_status)
    return body


def _tuned(found: dict[str, Any]) -> str:
    before, after = 100 * found["lost_before"], 100 * found["lost_after"]
    return f"{found['steps']} steps for int8: {before:.2f} points of top-1 lost before, {after:.2f} after"


def _speed(speed: dict[str, Any], precision: str) -> str:
    """How an engine compares with fp32; that it is slower is said plainly."""
    mine, other = speed["floor_ms"], speed["fp32_floor_ms"]
    times = f"{format_ms(mine)} against {format_ms(other)}, timed in turn"
    if not speed["differs"]:
        return f"as fast as fp32 within the error ({times})"
    if mine < other:
        return f"{other / mine:.2f} times as fast as fp32 ({times})"
    return (
        f"SLOWER than fp32, by {mine / other:.2f} times ({times}): {precision} gains nothing in this runtime "
        "on this processor; export --precision fp32, or see `hwnas benchmark`"
    )


def _checks(body: dict[str, Any]) -> None:
    measured, promise = body["measured"], body["promise"]
    figures = body["by_class"] and ByClass.model_validate(body["by_class"])
    console.facts(
        [
            ("engine", f"{body['engine']} ({body['bytes'] / 1024:.0f} KiB)"),
            ("manifest", body["manifest"]),
            (
                "measured",
                measured
                and f"p50 {format_ms(measured['median_ms'])}, "
                f"p95 {format_ms(measured['p95_ms'])}, {measured['samples']} calls",
            ),
            ("fine-tuned", body["fine_tuned"] and _tuned(body["fine_tuned"])),
            (
                "int8 forms",
                ", ".join(f"{name or 'usual'} {over:.2f}" for name, over in body["forms"].items())
                + " times as long" * bool(body["forms"]),
            ),
            ("by block", body["mixed"] and Mixed.model_validate(body["mixed"]).describe()),
            ("beside fp32", body["speed"] and _speed(body["speed"], body["setting"]["precision"])),
            (
                "preparation",
                body["preprocessing"]
                and f"{format_ms(body['preprocessing']['median_ms'])} for one picture of "
                f"{body['preprocessing']['width']}x{body['preprocessing']['height']} on this host, in "
                "addition to the network's time",
            ),
            (
                "budget",
                body["budget"] and f"{body['budget']}: {promise['verdict'] if promise else 'not judged'}",
            ),
            *(classes.facts(figures) if figures else []),
        ]
    )
    console.verdicts(body["checks"])
    if figures:
        classes.table(figures, "Images compared, by class, as the engine names them")


@click.command()
@click.argument("runs", nargs=-1, metavar="RUN...")
@click.option("--pictures", type=click.Choice(["svg", "png"]), help="Also write every picture as a file.")
@options.out
@common
def report(ui: Output, **chosen: Any) -> None:
    """One self-contained HTML page about runs; several are compared.  [default: the newest]"""
    from hwnas.jobs.report import ReportOptions
    from hwnas.jobs.report import report as job

    body = job(ReportOptions(**options.given(**chosen)), ui.emit).as_json()
    ui.result(schemas.REPORT, body, lambda: click.echo("\n".join([body["path"], *body["pictures"]])))
