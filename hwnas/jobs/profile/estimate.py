"""`hwnas profile --estimate`: a planning table for a device that is not here."""

from __future__ import annotations

import time

from hwnas.cost import roofline
from hwnas.jobs.profile.options import ProfileOptions
from hwnas.jobs.profile.result import ProfileOutcome
from hwnas.measure import device as devices
from hwnas.measure import table_folder
from hwnas.measure.candidates import precision_of
from hwnas.measure.writer import write
from hwnas.nets import spaces
from hwnas.records import to_json
from hwnas.results import DryRun


def estimate(options: ProfileOptions) -> ProfileOutcome | DryRun:
    """Write a table of estimated block times; every use of it is marked `estimated`."""
    begun = time.perf_counter()
    found = devices.resolve(options.device, here=False)
    name = options.space or spaces.advised(options.input_shape)
    space = spaces.make(name, input_shape=options.input_shape, classes=options.classes)
    member = space.smallest()
    profile = roofline.describe(found.name)
    table = roofline.table(
        profile,
        space.blocks(),
        precision=precision_of(options.precision),
        batch=options.batch or 1,
        threads=options.threads,
    )
    table.header = table.header.model_copy(
        update={"space": space.name, "input_shape": member.input_shape, "classes": member.classes}
    )
    path = options.out or table_folder.new_path(table.header)
    if options.dry_run:
        planned = {"table": str(path), "blocks": len(table.rows), "measurements": 0, "seconds": 0.0}
        return DryRun.of({"dry_run": True, **planned})
    table = write(path, table)
    body = {
        "table": str(path),
        "table_id": table.table_id,
        "complete": True,
        "setting": to_json(table.setting),
        "space": space.name,
        "model": None,
        "preset": "estimate",
        "rows": len(table.rows),
        "failures": [],
        "probes": 0,
        "measurements": 0,
        "seconds": time.perf_counter() - begun,
        "gates": {},
        "holdout": None,
        "supports": profile.support,
    }
    return ProfileOutcome.of(body)
