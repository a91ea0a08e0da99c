"""The `hwnas` command group: sub-commands are imported when they are called."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from hwnas import __version__
from hwnas.errors import HwnasError

# command -> (module:attribute, one line of help). The help line is here so that `hwnas --help`
# imports none of the modules.
COMMANDS: dict[str, tuple[str, str]] = {
    "count": ("hwnas_cli.look:count", "MACs, parameters, activation memory and depth of networks."),
}


class Lazy(click.Group):
    """A group that imports a sub-command when it is called, and turns our errors into exit statuses."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: D102
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: D102
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: D102
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:  # noqa: D102
        try:
            return super().invoke(ctx)
        except HwnasError as exc:
            click.echo(f"Error: {exc}", err=True)
            sys.exit(exc.exit_status)
        except KeyboardInterrupt:
            click.echo("Interrupted; repeat the command with the same --out to resume.", err=True)
            sys.exit(130)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hwnas")
def cli() -> None:
    """The most accurate convolutional network that keeps a latency budget on your device."""
