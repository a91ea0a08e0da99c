"""``hwnas verify``: the checks of an export again, on the file as it is now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hwnas.deploy.engine import runtime
from hwnas.deploy.manifest import check_file, find_engine, read_manifest
from hwnas.deploy.parity import TOLERANCES
from hwnas.errors import InputError
from hwnas.jobs.export.outcome import ExportOutcome, summary
from hwnas.jobs.export.run import check, with_latency
from hwnas.jobs.export.samples import samples
from hwnas.jobs.resolve.origin import Origin, origin
from hwnas.measure.device import refuse_unasked
from hwnas.measure.patience import PATIENCE_S
from hwnas.protocols import Emit


@dataclass(frozen=True)
class VerifyOptions:
    """What to check against what.

    Attributes:
        engine: engine file, or a folder that holds one.
        device: must name the machine where that is another one, as the engine runs there.
        against: run with the network and weights; None takes the run that the engine lies in.
        data: None takes what the run was trained on.
        latency_budget: None takes the manifest's.
        images: how many validation images are compared.
        max_time_s: for the test of the budget.
        patience_s: seconds that may be waited in all while the machine is slower than it was seen to be.
        sustained_s: seconds for which the device is kept busy before the engine is timed.
    """

    engine: str
    device: str | None = None
    against: str | None = None
    data: str | None = None
    latency_budget: str | None = None
    images: int = 512
    max_time_s: float | None = None
    patience_s: float = PATIENCE_S
    sustained_s: float = 0.0


def verify(options: VerifyOptions, emit: Emit | None = None) -> ExportOutcome:
    """Check an engine again. Writes nothing.

    Returns:
        As `jobs.export.export`, with ``checks`` and ``passed`` of this verification.

    Raises:
        InputError: no engine, no manifest, or no weights to compare with.
        DataFormatError: the engine is not the file that was exported.
        BackendUnavailable: its runtime is not here.
        VerificationFailed: a check did not pass; `result` is what a pass would have returned.
    """
    path = find_engine(Path(options.engine))
    manifest = read_manifest(path)
    check_file(path, manifest)
    refuse_unasked(manifest.setting, options.device, f"engine {path}")
    backend = runtime(manifest)
    source = _source(options, path)
    drawn = samples(options.data, source, options.images, TOLERANCES[manifest.setting.precision].images)
    budget = with_latency(manifest.budget, options.latency_budget)
    patience = (options.max_time_s, options.patience_s)
    found = check(
        path,
        manifest,
        source,
        backend,
        drawn,
        budget=budget,
        patience=patience,
        sustained_s=options.sustained_s,
        emit=emit,
    )
    result = summary(path, found.complete(manifest))
    found.require(path, result.as_json())
    return result


def _source(options: VerifyOptions, path: Path) -> Origin:
    """The run to compare with."""
    try:
        return origin(options.against or str(path.parent))
    except InputError as exc:
        if options.against is not None:
            raise
        raise InputError(
            f"{path} has no network and weights beside it to compare with; name the run that it was exported "
            f"from: hwnas verify {path} --against RUN"
        ) from exc
