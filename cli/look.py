"""Looking without measuring for long: doctor, count, and what is built in or plugged in."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hwnas import schemas
from hwnas.units import format_count, format_depths, format_ms

from . import console, options, param_types
from .console import Output, common


@click.command()
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK...")
@common
def count(ui: Output, networks: tuple[str, ...]) -> None:
    """MACs, parameters, activation memory and depth of networks.

    NETWORK is a network.json, a run, or the name of a shipped example such as resnet20.
    """
    from hwnas.jobs.inspect import count as job

    body = job(networks).as_json()
    columns = ["network", "MACs", "params", "depth", "activations", "blocks a stage", "input"]
    ui.result(schemas.COUNT, body, lambda: console.table(columns, map(_counted, body["networks"])))


def _counted(row: dict[str, Any]) -> list[str]:
    return [
        row["name"] or row["path"],
        format_count(row["macs"], "MAC"),
        format_count(row["params"], "param"),
        str(row["depth"]),
        f"{row['activation_bytes'] / 1024:.4g} KiB",
        format_depths(row["depths"]),
        "x".join(map(str, row["input"])),
    ]


@click.command()
@click.option("--noise/--no-noise", default=True, help="Measure the timing noise of this machine (5 s).")
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Instead record every call of small engines into an .npz file, to study the noise.",
)
@click.option(
    "--seconds", type=param_types.DURATION, metavar="TIME", help="Length of the record.  [default: 100s]"
)
@click.option(
    "--gpu-report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Instead try all that only a GPU can show (ten minutes), and write it to a JSON file.",
)
@options.options(options.device, options.gpu)
@common
def doctor(
    ui: Output,
    noise: bool,
    record: Path | None,
    seconds: float | None,
    gpu_report: Path | None,
    device: str | None,
) -> None:
    """What works here (or where a device is): processor, GPUs, runtimes, and how noisy timing is (5 s)."""
    from hwnas.jobs.doctor import doctor as job
    from hwnas.jobs.doctor import gpu_report as tried
    from hwnas.jobs.doctor import record_noise

    if device is not None and (record or gpu_report):
        raise click.UsageError("--record and --gpu-report look at this machine; leave out --device")
    if gpu_report is not None:
        report = tried(gpu_report, ui.emit).as_json()
        ui.result(schemas.DOCTOR, report, lambda: _reported(report))
        return
    if record is not None:
        found = record_noise(record, seconds or 100.0, ui.emit).as_json()
        ui.result(schemas.DOCTOR, found, lambda: _recorded(found))
        return
    if seconds is not None:
        raise click.UsageError("--seconds is the length of a record; name its file by --record FILE")
    body = job(ui.emit, noise=noise, device=device or "auto").as_json()
    ui.result(schemas.DOCTOR, body, lambda: _doctor(body))
    ui.next(
        f"hwnas profile --device {shlex.quote(device or body['device'])} --space resnet-cifar --preset quick"
    )


def _reported(body: dict[str, Any]) -> None:
    rows = [
        [name, "passed" if step["passed"] else "FAILED", f"{step['seconds']:.0f} s", _last_line(step["said"])]
        for name, step in body["steps"].items()
    ]
    console.table(["step", "outcome", "took", "said"], rows)
    console.say(f"{body['path']}: docs/gpu.md says where to send it")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _recorded(body: dict[str, Any]) -> None:
    console.say(f"{body['calls']} calls in {body['seconds']:.0f} s: {body['path']}")
    for name, times in body["engines"].items():
        above = times["median_ms"] / times["low_ms"] - 1.0
        console.say(f"  {name}: {format_ms(times['low_ms'])} at its best, median {above:+.1%}")


def _doctor(body: dict[str, Any]) -> None:
    cpu, noise = body["cpu"], body["noise"]
    console.facts(
        [
            ("CPU", f"{cpu['model']}, {cpu['cores']} cores, load {cpu['load']:.1f}"),
            ("flags", " ".join(cpu["flags"])),
            ("memory", f"{cpu['memory_bytes'] / 2**30:.1f} GiB"),
            *(("GPU", f"{gpu['name']}, {gpu['advice']}") for gpu in body["gpus"]),
            *([] if body["gpus"] else [("GPU", "none found")]),
            *([("noise", f"grade {noise['grade']}: {noise['text']}")] if noise else []),
        ]
    )
    click.echo()
    console.table(
        ["runtime", "version", "works here"],
        [
            [name, row["version"], "yes" if row["available"] else f"no: {row['reason']}"]
            for name, row in body["backends"].items()
        ],
    )
    for problem in body["problems"]:
        console.say(f"Problem: {problem}")
    if body["would_help"]:
        click.echo()
        console.say("More runtimes for --backend auto to choose the fastest from:")
        for name, reason in body["would_help"].items():
            console.say(f"  {name}: {reason}", "  ")


def _listing(name: str, text: str) -> click.Group:
    """A group ``NAME [list|show]`` whose bare form lists."""

    @click.group(name, invoke_without_command=True, help=text)
    @click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout.")
    @click.pass_context
    def group(ctx: click.Context, as_json: bool) -> None:
        if ctx.invoked_subcommand is None:
            _rows(Output(as_json=as_json), name)
        elif as_json:
            raise click.UsageError(f"write --json after {ctx.invoked_subcommand}")

    @group.command("list")
    @common
    def list_(ui: Output) -> None:
        _rows(ui, name)

    list_.help = f"List all {name}."
    return group


def _rows(ui: Output, name: str) -> None:
    from hwnas.jobs import inspect as look

    rows = [row.as_json() for row in getattr(look, name)()]
    columns = [name[:-1].replace("strategie", "strategy"), "works here", "about"]

    def line(row: dict[str, Any]) -> list[str]:
        about = row.get("summary") or row.get("label") or row.get("version") or ""
        return [row["name"], "yes" if row["available"] else f"no: {row['reason']}", about]

    ui.result(f"hwnas.{name}/1", {name: rows}, lambda: console.table(columns, map(line, rows)))


def _show(
    ui: Output, name: str, body: dict[str, Any], lines: Callable[[dict[str, Any]], None] | None = None
) -> None:
    show = lines or (lambda found: console.facts(_flat(found)))
    ui.result(f"hwnas.{name}.show/1", body, lambda: show(body))


def _flat(body: dict[str, Any], indent: str = "") -> list[tuple[str, object]]:
    """Nested mappings as indented names and values."""
    lines: list[tuple[str, object]] = []
    for key, value in body.items():
        if isinstance(value, dict):
            lines += [(f"{indent}{key}", " "), *_flat(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for at, entry in enumerate(value):
                lines += [(f"{indent}{key}[{at}]", " "), *_flat(entry, indent + "  ")]
        else:
            lines.append((f"{indent}{key}", _told(key, value)))
    return lines


def _told(key: str, value: object) -> object:
    """A value as people read it: shapes and sizes as 3x32x64, other lists with commas."""
    if not isinstance(value, (list, tuple)):
        return value
    if key == "input_shape" or isinstance(value, tuple):
        return "x".join(map(str, value))
    return ", ".join(str(_told("", one)) for one in value)


devices = _listing("devices", "Known devices, and which are in this machine.")
spaces = _listing("spaces", "Search spaces; sample networks from one.")
strategies = _listing("strategies", "Search strategies.")
backends = _listing("backends", "Runtimes, and why one is not available.")


@devices.command("show")
@click.argument("name")
@common
def show_device(ui: Output, name: str) -> None:
    """One device with its description."""
    from hwnas.jobs import inspect as look

    _show(ui, "devices", look.device(name).as_json())


@devices.command("add")
@click.argument("name")
@click.argument("address")
@common
def add_device(ui: Output, name: str, address: str) -> None:
    """Give a device of another machine a name: ADDRESS is ssh://user@host[:port][/NAME][?python=PATH].

    Nothing is connected to. `hwnas doctor --device NAME` tries it.
    """
    from hwnas.jobs import inspect as look

    body = look.add_device(name, address).as_json()
    ui.result("hwnas.devices.add/1", body, lambda: click.echo(f"{body['name']}  {body['address']}"))
    ui.next(f"hwnas doctor --device {body['name']}")


@devices.command("rm")
@click.argument("name")
@common
def remove_device(ui: Output, name: str) -> None:
    """Forget the name of a device; its tables stay."""
    from hwnas.jobs import inspect as look

    body = look.remove_device(name).as_json()
    ui.result("hwnas.devices.rm/1", body, lambda: click.echo(f"forgotten: {body['name']}"))


@spaces.command("show")
@click.argument("name", type=param_types.Registered("spaces"), metavar="NAME")
@options.input_shape
@common
def show_space(ui: Output, name: str, input_shape: tuple[int, int, int] | None) -> None:
    """What a space holds, and its smallest network."""
    from hwnas.jobs import inspect as look

    _show(ui, "spaces", look.space(name, input_shape).as_json())


@strategies.command("show")
@click.argument("name", type=param_types.Registered("strategies"), metavar="NAME")
@common
def show_strategy(ui: Output, name: str) -> None:
    """A strategy and its options, which `hwnas search --set NAME=VALUE` changes."""
    from hwnas.jobs import inspect as look

    body = look.strategy(name).as_json()
    _show(ui, "strategies", body, _strategy)


def _strategy(body: dict[str, Any]) -> None:
    console.facts(_flat({key: value for key, value in body.items() if key != "options"}))
    if not body.get("options"):
        return
    click.echo()
    console.table(
        ["option", "default", "expected", "about"],
        [[row["name"], _plain(row["default"]), row["expected"], row["help"]] for row in body["options"]],
    )


def _plain(value: object) -> str:
    """A default as it is typed behind ``--set NAME=``; nothing for none."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value in (None, [], ()) else str(value)


@backends.command("show")
@click.argument("name", type=param_types.Registered("backends"), metavar="NAME")
@common
def show_backend(ui: Output, name: str) -> None:
    """One runtime."""
    from hwnas.jobs import inspect as look

    _show(ui, "backends", look.one(look.backends(), "backend", name).as_json())


@spaces.command()
@options.options(options.space, options.input_shape)
@click.option("-n", "count_", type=param_types.COUNT, default=1, metavar="N", help="Number of networks.")
@options.options(options.seed, options.out)
@common
def sample(
    ui: Output,
    space: str | None,
    input_shape: tuple[int, int, int] | None,
    count_: int,
    seed: int | None,
    **where: Path | None,
) -> None:
    """Write N random networks of a space as network.json files."""
    from hwnas.jobs import inspect as look

    folder = where["out"] or Path("networks")
    body = look.sample(space or "resnet-cifar", count_, seed or 0, folder, input_shape).as_json()
    ui.result("hwnas.spaces.sample/1", body, lambda: click.echo("\n".join(body["paths"])))
    ui.next(f"hwnas predict {body['paths'][0]}")
