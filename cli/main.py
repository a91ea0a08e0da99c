"""The `hwnas` command group: sub-commands are imported when they are called."""

from __future__ import annotations

import json
import traceback
from importlib import import_module
from typing import NoReturn

import click

from hwnas import __version__
from hwnas.errors import HwnasError

# section -> command -> (module:attribute, one line of help). The help lines are here so that
# `hwnas --help` imports none of the modules.
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Start": {
        "quickstart": ("hwnas_cli.chain:quickstart", "The five-minute path on embedded data, step by step."),
        "doctor": ("hwnas_cli.look:doctor", "What works here: CPU, GPU, runtimes, and how noisy timing is."),
        "init": ("hwnas_cli.chain:init", "Write a commented pipeline file to start from."),
        "run": ("hwnas_cli.chain:run", "Profile, search, export and verify from one pipeline file."),
    },
    "Measure": {
        "profile": ("hwnas_cli.measure:profile", "Measure a device: a latency table with its own error."),
        "predict": ("hwnas_cli.measure:predict", "Predict the latency of networks, with interval, by stage."),
        "bench": ("hwnas_cli.measure:bench", "Measure whole networks or engines, interleaved."),
        "count": ("hwnas_cli.look:count", "MACs, parameters, activation memory and depth of networks."),
        "table": ("hwnas_cli.table:table", "Show, check, compare and share latency tables."),
    },
    "Search and deploy": {
        "search": ("hwnas_cli.search:search", "Find the best network within a latency budget."),
        "train": ("hwnas_cli.search:train", "Train a found or given network further."),
        "export": ("hwnas_cli.deploy:export", "Write an engine; prove its outputs and its latency."),
        "verify": ("hwnas_cli.deploy:verify", "Check an engine again; exit 5 when it fails."),
        "report": ("hwnas_cli.deploy:report", "One self-contained HTML page about runs."),
    },
    "Look": {
        "runs": ("hwnas_cli.history:runs", "List, show, compare and remove runs."),
        "devices": ("hwnas_cli.look:devices", "Known devices, and whether they are here."),
        "spaces": ("hwnas_cli.look:spaces", "Search spaces; sample networks from one."),
        "strategies": ("hwnas_cli.look:strategies", "Search strategies."),
        "backends": ("hwnas_cli.look:backends", "Runtimes, and why one is not available."),
    },
}
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


def command_of(name: str) -> click.Command:
    """Import a command."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command)
    return command


class Lazy(click.Group):
    """A group that imports a sub-command when it is called, and turns our errors into exit statuses."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        return command_of(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is a usage error that names the nearest."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from hwnas.plugins import unknown

            ctx.fail(unknown("command", args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands under their sections."""
        width = max(map(len, COMMANDS))
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(f"{name:<{width}}", text) for name, (_, text) in commands.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember how errors are wanted before any sub-command has parsed."""
        ctx.meta["hwnas.json"] = "--json" in args
        ctx.meta["hwnas.trace"] = any(a == "--verbose" or _short_v(a) for a in args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an error of ours becomes its message and exit status, a bug keeps its traceback."""
        try:
            return super().invoke(ctx)
        except HwnasError as exc:
            if ctx.meta["hwnas.trace"]:
                click.echo("".join(traceback.format_exception(exc)), err=True, nl=False)
            _fail(ctx, exc, str(exc), exc.exit_status)
        except click.UsageError as exc:
            exc.show()
            _fail(ctx, exc, exc.format_message(), exc.exit_code, shown=True)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)


def _short_v(arg: str) -> bool:
    return len(arg) > 1 and arg[0] == "-" and set(arg[1:]) == {"v"}


def _fail(ctx: click.Context, exc: Exception, text: str, status: int, *, shown: bool = False) -> NoReturn:
    """Show an error on stderr, and under ``--json`` as the one object on stdout; leave."""
    if not shown:
        click.echo(f"Error: {text}", err=True)
    if ctx.meta["hwnas.json"]:
        body = {
            "schema": "hwnas.error/1",
            "error": type(exc).__name__,
            "message": text,
            "exit_status": status,
        }
        smallest_ms = getattr(exc, "smallest_ms", None)
        if smallest_ms is not None:
            body["smallest_ms"] = smallest_ms
        click.echo(json.dumps(body, indent=2))
    ctx.exit(status)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hwnas")
def cli() -> None:
    """The most accurate convolutional network that keeps a latency budget on your device."""


if __name__ == "__main__":
    cli(prog_name="hwnas")
