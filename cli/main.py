"""The `hwnas` command group: sub-commands are imported when they are called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from hwnas import __version__

from .endings import PIPE_CLOSED, Ending, flush, occupy, plain_warnings, silence, spell_anything

# section -> command -> (module:attribute, one line of help). The help lines are here so that
# `hwnas --help` imports none of the modules.
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Start": {
        "quickstart": (
            "hwnas_cli.quickstart:quickstart",
            "The whole chain on built-in data, in about five minutes.",
        ),
        "doctor": ("hwnas_cli.look:doctor", "What works here: CPU, GPU, runtimes, and how noisy timing is."),
        "init": ("hwnas_cli.chain:init", "Write a commented pipeline file to start from."),
        "run": ("hwnas_cli.chain:run", "Profile, search, export and verify from one pipeline file."),
    },
    "Measure": {
        "profile": (
            "hwnas_cli.measure:profile",
            "Measure a device: a latency table with its prediction error.",
        ),
        "predict": (
            "hwnas_cli.measure:predict",
            "Predict the latency of networks, with interval and by stage.",
        ),
        "bench": ("hwnas_cli.measure:bench", "Measure whole networks or engines, interleaved."),
        "benchmark": ("hwnas_cli.benchmark:benchmark", "One network in every runtime and precision here."),
        "count": ("hwnas_cli.look:count", "MACs, parameters, activation memory and depth of networks."),
        "table": ("hwnas_cli.table:table", "Show, check, compare and share latency tables."),
    },
    "Search and deploy": {
        "search": ("hwnas_cli.search:search", "Find the best network within a latency budget."),
        "plan": (
            "hwnas_cli.search:plan",
            "Choose a network by an untrained score: no data, no training, no device.",
        ),
        "replay": ("hwnas_cli.search:replay", "Replay a published search log through the controller."),
        "train": ("hwnas_cli.search:train", "Train a found or given network further."),
        "export": ("hwnas_cli.deploy:export", "Write an engine; check its outputs and its latency."),
        "verify": ("hwnas_cli.deploy:verify", "Check an engine again; exit 5 when it fails."),
        "report": ("hwnas_cli.deploy:report", "One self-contained HTML page about runs."),
    },
    "Look": {
        "model": ("hwnas_cli.model:model", "A network of your own: blocks, what can be dropped or narrowed."),
        "runs": ("hwnas_cli.history:runs", "List, show, compare and remove runs."),
        "devices": ("hwnas_cli.look:devices", "Known devices, and which are in this machine."),
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
    """A group that imports a sub-command when it is called, and ends every command as `endings` says."""

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

    def invoke(self, ctx: click.Context) -> None:
        """Run a command; what is returned by `main` is then its exit status alone."""
        try:
            super().invoke(ctx)
        except BrokenPipeError:  # click would make it a status of 1
            ctx.exit(PIPE_CLOSED)

    # click overloads it by standalone_mode and gives Any or NoReturn; here every end is a status.
    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> int:
        """Run the command line; every end is an exit status, and an object where JSON was asked for.

        As click's own: the status is returned where ``standalone_mode`` is off.
        """
        argv = list(sys.argv[1:] if args is None else args)
        ending = Ending("--json" in argv, any(a == "--verbose" or _short_v(a) for a in argv))
        if standalone_mode:
            occupy()
            spell_anything()
            plain_warnings()
        try:
            extra["obj"] = ending
            status: int = super().main(argv, prog_name, complete_var, standalone_mode=False, **extra) or 0
            flush()
        except SystemExit:  # of the shell's completion
            raise
        except BaseException as exc:
            status = ending.fail(exc)
        if not standalone_mode:
            return status
        try:
            flush()
        except (OSError, ValueError):
            silence()
        sys.exit(status)


def _short_v(arg: str) -> bool:
    return len(arg) > 1 and arg[0] == "-" and set(arg[1:]) == {"v"}


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hwnas")
def cli() -> None:
    """The most accurate convolutional network that keeps a latency budget on your device."""


if __name__ == "__main__":
    cli(prog_name="hwnas")
