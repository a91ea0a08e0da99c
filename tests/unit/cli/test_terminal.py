"""What is printed fits the terminal, leaves one line of progress, and is coloured where that shows."""

from __future__ import annotations

import io

import pytest

from hwnas_cli import console, progress, terminal
from hwnas_cli.console import Output


class Terminal(io.StringIO):
    """A stream that people look at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR", "CI", "TERM"):
        monkeypatch.delenv(name, raising=False)


def test_width_is_that_of_the_terminal_or_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal.columns(io.StringIO()) is None
    monkeypatch.setenv("COLUMNS", "80")
    assert terminal.columns(io.StringIO()) == 80
    monkeypatch.setenv("COLUMNS", "3")
    assert terminal.columns(io.StringIO()) == 40


def test_text_is_folded_at_spaces_only() -> None:
    path = "/" + 60 * "x"
    text = f"table {path} was measured with other threads"
    assert terminal.folded(text, 40, "  ") == f"table\n  {path}\n  was measured with other threads"
    assert terminal.folded(text, None) == text


def test_a_command_is_continued_by_backslashes() -> None:
    shown = terminal.command("hwnas search --data folder:images --latency-budget 18ms", 40, "Next: ")
    assert shown == "Next: hwnas search --data \\\n        folder:images --latency-budget \\\n        18ms"
    assert max(map(len, shown.splitlines())) <= 40


def test_a_table_folds_its_widest_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console.table(["run", "about", "empty"], [["a", "one two three four five six seven eight nine", ""]])
    lines = capsys.readouterr().out.splitlines()
    # run is 3 wide, the gap 2: 35 are left.
    assert lines == [
        "run  about",
        "---  " + 35 * "-",
        "a    one two three four five six seven",
        "     eight nine",
    ]


def test_a_table_whose_words_do_not_fit_is_printed_row_by_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console.table(["first", "second"], [[20 * "a", 20 * "b"], ["c", "d"]])
    assert capsys.readouterr().out.splitlines() == [
        "first   " + 20 * "a",
        "second  " + 20 * "b",
        "",
        "first   c",
        "second  d",
    ]


def test_a_path_in_a_table_has_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    path = "/" + 70 * "p"
    console.table(["network", "p50"], [[path, "1.2 ms"], ["resnet20", "3.4 ms"]], below=["x", "y"])
    assert capsys.readouterr().out.splitlines() == [
        "network" + 45 * " " + "     p50",  # 60 - 2 - 6 are left
        52 * "-" + "  ------",
        path,
        52 * " " + "  1.2 ms",
        "  x",
        "resnet20" + 44 * " " + "  3.4 ms",
        "  y",
    ]
    console.table(["setting", "a"], [["table", path], ["seed", "7"]])
    assert capsys.readouterr().out.splitlines()[2:] == ["table    " + path, "seed     7"]


def test_dates_are_no_numbers_and_mappings_are_words(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(["when", "ms"], [["2026-11-29 10:58", "0.5"], ["2026", "12.25"]])
    assert capsys.readouterr().out.splitlines()[2:] == ["2026-11-29 10:58    0.5", "2026              12.25"]
    console.facts([("setting", {"device": "cpu", "driver": "", "batch": 1, "cores": [0, 1]})])
    assert capsys.readouterr().out == "setting  device cpu, batch 1, cores 0, 1\n"


def test_facts_are_folded_under_their_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console.facts([("on", "cpu"), ("sessions", "one two three four five six seven")])
    # 8 of the name and 2 of the gap: 30 are left for the value.
    assert capsys.readouterr().out.splitlines() == [
        "on        cpu",
        "sessions  one two three four five six",
        "          seven",
    ]


def test_colours_are_for_terminals_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal.coloured("PASSED", "green", io.StringIO()) == "PASSED"
    assert terminal.coloured("PASSED", "green", Terminal()) == "\x1b[32m\x1b[1mPASSED\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.coloured("PASSED", "green", Terminal()) == "PASSED"


def test_progress_without_a_terminal_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """`bench` does not know how often it will time: it is at the end again and again."""
    stream = io.StringIO()
    with Output(stream=stream) as ui:
        for done in range(36, 60):
            ui.emit("progress", {"task": "measuring", "done": done, "total": done})
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().startswith("measuring: 59 of 59, in ")
    assert "\r" not in stream.getvalue()


def test_plain_progress_becomes_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    bar = progress.Bar(stream)
    for second in range(301):
        now[0] = float(second)
        bar.show("training", second, 300, "")
    bar.end()
    # After 5, 10, 20, 40 and 60 more seconds, and each minute from then on.
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
        *(f"training: {s} of 300" for s in (5, 15, 35, 75, 135, 195, 255)),
        "training: 300 of 300",
    ]


def test_a_live_bar_leaves_one_line() -> None:
    stream = Terminal()
    with Output(stream=stream) as ui:
        for task in ("trial 0", "trial 1"):
            for done in (1, 2):
                ui.emit("progress", {"task": task, "done": done, "total": 2, "note": 200 * "n"})
            ui.log(f"{task} is done")
    shown = stream.getvalue()
    assert shown.count("\n") - shown.count("\x1b[1A") == 3, "two lines of the log and the last one stay"
    assert "2 tasks, the last trial 1: 2 of 2, in " in shown.splitlines()[-1]


def test_tasks_at_the_same_time_have_a_line_each() -> None:
    """With the machine that each runs on; what ends leaves the table."""
    stream = Terminal()
    with Output(stream=stream) as ui:
        for name, place in (("trial 0", "red, process 1"), ("trial 1", "blue, process 2")):
            ui.emit("began", {"task": name, "where": place})
            ui.emit("progress", {"task": name, "done": 1, "total": 2})
        bar = ui._bar
        assert bar._progress is not None
        rows = [(t.description, t.fields["place"], t.completed) for t in bar._progress.tasks]
        assert rows == [("trial 0", "red", 1), ("trial 1", "blue", 1)]
        ui.emit("ended", {"task": "trial 0"})
        ui.emit("progress", {"task": "trial 1: importance", "done": 3, "total": 4})
        ui.emit("progress", {"task": "measuring", "done": 5, "total": 6})  # this process itself
        rows = [(t.description, t.fields["place"], t.completed) for t in bar._progress.tasks]
        assert rows == [("trial 1: importance", "blue", 3), ("measuring", "", 5)]
