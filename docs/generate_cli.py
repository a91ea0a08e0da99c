"""Write docs/cli.md from the commands themselves: `python docs/generate_cli.py`."""

from __future__ import annotations

from pathlib import Path

import click

from hwnas_cli.main import SECTIONS, cli, command_of

HERE = Path(__file__).resolve().parent

HEAD = """\
# The command line

Written by `python docs/generate_cli.py`; a test holds it to the commands.

Rules that every command keeps:

- The same option has the same name and meaning everywhere.
- Quantities carry units and are refused without one: `18ms`, `850us`, `2.5s`, `60MMAC`, `120MFLOP`,
  `500kparam`, `64MiB`, `10min`. A budget may name its percentile (`18ms@p95`; default p50), several
  budgets (`0.4ms,0.6ms,0.9ms`), or a ratio to a network (`1.15x:resnet20`).
- Standard output holds the result only; progress and log go to standard error. `--json` prints exactly
  one JSON object with a `schema`; every other end is an object too (`hwnas.error/1`: error,
  message, exit_status). Progress is one live line on a terminal, and a plain line now and then
  elsewhere or when `CI` is set; one line about it stays. Colours are for terminals; `NO_COLOR` turns
  them off.
- Lines fit the terminal, or the number in `COLUMNS`; only paths and names may be longer. Elsewhere (a
  file, `| grep`) lines are not folded.
- `--config FILE` reads options from YAML or TOML: one command's options, or a section a command with
  `common` for all. Flags win. `HWNAS_CONFIG` names a file that every command reads where `--config` is
  not given.
- Repeating a command with the same `--out` resumes; another configuration in the same folder is
  refused. `--dry-run` says what would be done and touches nothing. `--max-time` stops cleanly.
- A NETWORK is a `network.json`, a run, or the name of a shipped example (`hwnas count resnet20`).
- Nothing is downloaded, installed or reported by itself.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | internal error (with traceback), or a runtime refused a network |
| 2 | usage: an option, name or unit is wrong, or a place is missing, full or not permitted |
| 3 | no network keeps the budget; the smallest reachable latency is printed |
| 4 | device or runtime not available; what is, and how to get it, is printed |
| 5 | verification failed |
| 6 | data, network or table invalid or stale |
| 130 | interrupted; repeat the command to go on |
| 141 | the reader of standard output went away (`\\| head`) |

Tables live in the user's data folder, or under `HWNAS_HOME`. Runs live in `runs/<verb>-<NNNN>/`, the
newest also as `runs/latest`: `manifest.json` (command, configuration, versions), `events.jsonl` (what
resuming reads), `log.txt`, `result.json`, `network.json`, `weights.safetensors`, engines with their
manifests, `report.html`.
"""


def text() -> str:
    """The whole page."""
    parts = [HEAD]
    for section, names in SECTIONS.items():
        parts.append(f"\n## {section}\n")
        for name in names:
            parts += pages(command_of(name), f"hwnas {name}")
    return "\n".join(parts)


def pages(command: click.Command, path: str) -> list[str]:
    """A command's help, and its sub-commands'."""
    parent = click.Context(cli, info_name="hwnas")
    context = click.Context(
        command, info_name=path.removeprefix("hwnas "), parent=parent, max_content_width=100
    )
    context.terminal_width = 100
    found = [f"### {path}\n\n```\n{command.get_help(context)}\n```\n"]
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            found += pages(child, f"{path} {name}")
    return found


if __name__ == "__main__":
    (HERE / "cli.md").write_text(text(), encoding="utf-8")
