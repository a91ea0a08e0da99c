"""Tables on disk: what is written is read back, and every kind of damage is named."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import table_samples as samples
from table_samples import DOWN, HEAD, REST, STEM, block_row, header, network, network_row, setting

from hwnas.documents import read_json
from hwnas.errors import DataFormatError, InputError, MissingMeasurement, StaleTable
from hwnas.measure import aggregate, rows, table_folder
from hwnas.measure import table as tables
from hwnas.measure.writer import TableWriter, write
from hwnas.store import data_dir


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "t.hwlat.jsonl"
    writer = TableWriter(file, header())
    for block in samples.TIMES:
        writer.append(block_row(block))
    writer.append(network_row(network(2, 1), 0.21))
    writer.finish({"holdout": {"mape_percent": 1.5}})
    return file


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewrite(path: Path, bodies: list[dict[str, Any]]) -> None:
    """Write lines with fresh, correct hashes: damage that hashes cannot show."""
    before, out = "", []
    for body in bodies:
        body.pop("hash", None)
        before = rows.chain_hash(before, body)
        out.append(json.dumps({**body, "hash": before}))
    path.write_text("\n".join(out) + "\n")


def test_round_trip(path: Path) -> None:
    table = tables.load(path)
    assert table.complete
    assert table[REST].value_ms == 0.060
    taken = table[REST].measurement
    assert taken is not None
    assert taken.samples == 100
    assert [net.spec for net in table.networks] == [network(2, 1)]
    assert table.summary == {"holdout": {"mape_percent": 1.5}}
    assert table.setting == setting()
    again = write(path.with_name("copy.hwlat.jsonl"), table)
    assert again.table_id == table.table_id, "the id is of the content, not of the file"


def test_missing_key_names_the_command(path: Path) -> None:
    table = tables.load(path)
    absent = DOWN.model_copy(update={"kernel": 5})
    with pytest.raises(MissingMeasurement, match=r"k5.*profile --device cpu --backend ort --space test"):
        table[absent]


def test_going_on_after_a_kill_in_the_middle_of_a_row(path: Path) -> None:
    whole = path.read_text()
    path.write_text(whole[: whole.index('{"row":"network"') + 40])
    with pytest.raises(DataFormatError, match=r"truncated: line 7 is unfinished.*--out to go on"):
        tables.load(path)
    writer = TableWriter(path, header())
    assert set(writer.table.rows) == set(samples.TIMES)
    writer.append(network_row(network(1, 1), 0.2))
    table = writer.finish()
    assert tables.load(path).table_id == table.table_id


def test_what_is_no_table_is_left_as_it_is(tmp_path: Path) -> None:
    for text in ("my thesis", "my thesis\nsecond line, unfinished", "about hwlat/1\nunfinished"):
        file = tmp_path / "notes.txt"
        file.write_text(text)
        with pytest.raises((InputError, DataFormatError)):
            TableWriter(file, header())
        assert file.read_text() == text
    target = tmp_path / "target"
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(InputError, match="is a symbolic link"):
        TableWriter(tmp_path / "link", header())
    assert not target.exists()


def test_a_table_cut_after_any_line_is_incomplete_and_says_so(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    for count in range(1, len(lines)):
        path.write_text("".join(lines[:count]))
        table = tables.load(path)
        assert not table.complete
        assert "incomplete" in table.warnings[0]
    path.write_text("".join(lines))
    assert tables.load(path).warnings == []


def test_an_import_that_is_repeated_finds_its_table(path: Path) -> None:
    table = tables.load(path)
    copy = path.with_name("copy.hwlat.jsonl")
    first = write(copy, table)
    table.header = table.header.model_copy(update={"created": "2026-01-03T03:04:05+00:00"})
    assert write(copy, table).table_id == first.table_id, "the same but for the time of writing"
    table.rows.pop(DOWN)
    with pytest.raises(InputError, match="exists already"):
        write(copy, table)


def test_names_of_tables_never_come_from_content_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    for device in ("/abs/x", "../../x", ".hidden", "a b", "x" * 400):
        made = table_folder.new_path(header(setting=setting(device=device), space="/../../y"))
        assert made.parent == tmp_path / "tables"
        assert len(made.name) < 255
        assert not made.name.startswith(".")
        assert " " not in made.name


def test_other_conditions_cannot_be_added(path: Path) -> None:
    with pytest.raises(InputError, match="threads was 1, is 2"):
        TableWriter(path, header(setting=setting(threads=2)))


def damage_truncated(path: Path) -> str:
    text = path.read_text()
    path.write_text(text[: len(text) - 30])
    return "truncated: line 9"


def damage_schema(path: Path) -> str:
    bodies = lines_of(path)
    bodies[0]["schema"] = "hwlat/9"
    rewrite(path, bodies)
    return "schema 'hwlat/9'; this version reads 'hwlat/1'"


def damage_nan(path: Path) -> str:
    path.write_text(path.read_text().replace('"value_ms":0.06,', '"value_ms":NaN,'))
    return "line 3 holds the number NaN, which is not finite"


def damage_negative(path: Path) -> str:
    bodies = lines_of(path)
    bodies[2]["value_ms"] = -0.06
    rewrite(path, bodies)
    return "line 3: block.value_ms: Input should be greater than 0 .got -0.06"


def damage_unit_declared(path: Path) -> str:
    bodies = lines_of(path)
    bodies[0]["units"] = {"time": "s"}
    rewrite(path, bodies)
    return "gives times in 's'; they must be in 'ms'"


def damage_unit_fast(path: Path) -> str:
    bodies = lines_of(path)
    for body in bodies[1:]:
        if "value_ms" in body:
            body["value_ms"] /= 1000
        if "measurement" in body:
            body["measurement"] = samples.measurement(body["measurement"]["floor_ms"] / 1000).model_dump()
    rewrite(path, bodies)
    return r"TFLOP/s, more than the 1 TFLOP/s that its device can reach; its times are not in milliseconds"


def damage_unit_slow(path: Path) -> str:
    bodies = lines_of(path)
    for body in bodies[1:]:
        if "value_ms" in body:
            body["value_ms"] *= 1e6
        if "measurement" in body:
            body["measurement"] = samples.measurement(body["measurement"]["floor_ms"] * 1e6).model_dump()
    rewrite(path, bodies)
    return r"calls add up to \d+ s, but it was taken within 1 s; its times are not in milliseconds"


def damage_unit_mixed(path: Path) -> str:
    bodies = lines_of(path)
    for body in bodies[1:6]:
        body["value_ms"] *= 1000
    rewrite(path, bodies)
    return "blocks add up to 1.06e\\+03 times the networks made of them"


def damage_duplicate(path: Path) -> str:
    bodies = lines_of(path)
    rewrite(path, [*bodies[:7], bodies[2]])
    return "line 8: duplicate key basic-16x16"


def damage_missing_rows(path: Path) -> str:
    bodies = lines_of(path)
    rewrite(path, [*bodies[:3], *bodies[4:]])
    return "7 rows were written, 6 are here; rows are missing"


def damage_line_removed(path: Path) -> str:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], *lines[4:]]))
    return "line 4: wrong hash .*lines before it are missing"


def damage_hash(path: Path) -> str:
    path.write_text(path.read_text().replace('"value_ms":0.06,', '"value_ms":0.05,'))
    return "line 3: wrong hash"


def damage_not_json(path: Path) -> str:
    path.write_text("stem: 0.4\nhead: 0.1\n")
    return "line 1 is not valid JSON"


def damage_binary(path: Path) -> str:
    path.write_bytes(b"\x80\x04\x95\xff\xfe")
    return "not a text file"


def damage_list(path: Path) -> str:
    path.write_text("[1, 2]\n")
    return "line 1 holds a list"


def damage_kind(path: Path) -> str:
    bodies = lines_of(path)
    bodies[2]["block"]["kind"] = "conv9"
    rewrite(path, bodies)
    return "line 3: block.block.kind"


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_damage_is_refused_with_exit_6_and_named(path: Path, damage: Callable[[Path], str]) -> None:
    said = damage(path)
    with pytest.raises(DataFormatError, match=said) as caught:
        tables.load(path)
    assert caught.value.exit_status == 6
    assert str(path) in str(caught.value)


def test_foreign_device_and_runtime_are_stale(path: Path) -> None:
    table = tables.load(path)
    for change in (
        {"device_arch": "other"},
        {"backend_version": "2.0"},
        {"precision": "int8"},
        {"threads": 2},
    ):
        field = next(iter(change))
        with pytest.raises(StaleTable, match=f"{field} was") as caught:
            tables.check_context(table, setting(**change))
        assert caught.value.exit_status == 6


def test_another_driver_is_only_a_warning(path: Path) -> None:
    table = tables.load(path)
    assert tables.check_context(table, setting()) == []
    assert "driver was '', is 'Linux 7'" in tables.check_context(table, setting(driver="Linux 7"))[0]


def test_tables_from_elsewhere_are_not_compared_with_this_machine() -> None:
    imported = samples.table(setting=setting(device="titanxp", provenance="imported"))
    assert tables.check_context(imported, setting()) == []


def test_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    with pytest.raises(MissingMeasurement, match="make one: hwnas profile --device cpu"):
        table_folder.newest("cpu")
    old = write(table_folder.new_path(header()), samples.table())
    small = samples.table(created="2026-02-02T03:04:05+00:00")
    del small.rows[DOWN]
    new = write(table_folder.new_path(small.header), small)
    unfinished = TableWriter(
        table_folder.folder() / "u.hwlat.jsonl", header(created="2026-03-02T03:04:05+00:00")
    )
    unfinished.append(block_row(STEM))
    (table_folder.folder() / "broken.hwlat.jsonl").write_text("no table\n")
    os.mkfifo(table_folder.folder() / "pipe.hwlat.jsonl")
    assert [path.name for path, _ in table_folder.survey().bad] == ["broken.hwlat.jsonl", "pipe.hwlat.jsonl"]
    assert "broken.hwlat.jsonl" in table_folder.newest("cpu").warnings[0], "what was skipped is named"
    assert table_folder.newest("cpu").path == new.path
    assert table_folder.newest("cpu", covering=[network(1, 1)]).path == old.path, "it covers the network"
    assert old.path is not None
    assert table_folder.is_finished(old.path)
    assert not table_folder.is_finished(unfinished.path)
    with pytest.raises(MissingMeasurement, match="batch 4"):
        table_folder.newest("cpu", batch=4)


def test_new_paths_never_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    first = write(table_folder.new_path(header()), samples.table())
    assert table_folder.new_path(header()) != first.path


def test_failure_rows_explain_a_missing_key(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path / "t.hwlat.jsonl", header())
    writer.append(rows.FailureRow(blocks=(HEAD,), error="refused the operator Gemm"))
    with pytest.raises(MissingMeasurement, match="it failed: refused the operator Gemm"):
        writer.table[HEAD]


def test_further_sessions_are_pooled_with_the_row_that_they_are_of(path: Path) -> None:
    """By hand: the faster floor, half the distance of the two as its error, gates that fired on both."""
    table = tables.load(path)
    net = table.networks[0]
    old = net.measurement.model_copy(update={"floor_ms": 1.0, "se_ms": 0.02, "gates": ("load", "precision")})
    new = old.model_copy(update={"floor_ms": 1.03, "se_ms": 0.01, "gates": ("load",)})
    for pair in ((old, new), (new, old)):
        found = aggregate.pooled(*pair)
        assert (found.floor_ms, found.gates, found.samples) == (1.0, ("load",), 2 * old.samples)
        assert found.se_ms == pytest.approx(0.015)
    table.networks[0] = net.model_copy(update={"measurement": new})
    table.add(rows.AgainRow(network=net.spec.key, measurement=old))
    assert table.networks[0].measurement.floor_ms == 1.0
    with pytest.raises(DataFormatError, match="no measured row"):
        table.add(rows.AgainRow(network="unknown", measurement=old))


def test_shipped_schema_is_that_of_the_code(path: Path) -> None:
    shipped = read_json(data_dir("profiles") / "hwlat-1.schema.json", "schema")
    assert shipped == json.loads(json.dumps(rows.json_schema()))
    kinds = {body["row"] for body in lines_of(path)}
    assert {"header", "block", "network", "summary", "end"} == kinds


@pytest.mark.parametrize(
    "figures",
    [{"holdout": "x"}, {"holdout": {"mape_percent": "x"}}, {"holdout": {}}, {"blocks": [1]}, {"noise": True}],
)
def test_figures_that_are_no_numbers_are_refused(path: Path, figures: dict[str, object]) -> None:
    bodies = lines_of(path)
    bodies[-2]["figures"] = figures
    rewrite(path, bodies)
    with pytest.raises(DataFormatError, match=r"line 8: summary\.figures"):
        tables.load(path)


def test_a_device_of_escape_codes_is_refused(path: Path) -> None:
    bodies = lines_of(path)
    bodies[0]["setting"]["device"] = "\x1b[31mx"
    rewrite(path, bodies)
    with pytest.raises(DataFormatError, match="cannot be printed"):
        tables.load(path)


@pytest.mark.parametrize(
    ("line", "place", "value", "said"),
    [
        (0, "protocol", {"sessions": -1}, "sessions is -1, not a number above zero"),
        (0, "protocol", {"session_ms": "x"}, "session_ms is 'x'"),
        (0, "protocol", {"not_imported": 3}, "not a list of names"),
        (0, "protocol", [], "header.*protocol|protocol: Input"),
        (0, "classes", 10**9, "classes"),
        (0, "classes", -1, "classes"),
        (0, "input_shape", [3, 0, 0], "input_shape"),
        (0, "created", "yesterday", "created"),
        (0, "setting.batch", 10**9, "batch"),
        (0, "setting.threads", 0, "threads"),
        (0, "setting.precision", "fp4", "precision"),
        (0, "setting.provenance", "guessed", "provenance"),
        (2, "value_ms", 1e300, "value_ms"),
        (2, "value_ms", 0, "value_ms"),
        (2, "value_ms", "fast", "value_ms"),
        (2, "se_ms", -1, "se_ms"),
        (2, "block.c_in", 10**12, "c_in"),
        (2, "measurement.samples", 10**15, "samples"),
        (2, "measurement.samples", -5, "samples"),
        (2, "measurement.median_ms", -1, "median_ms"),
        (2, "measurement.taken_at", "2026-01-01T00:00:00", "zone"),
        (2, "measurement.p10_ms", 1e6, "not in ascending order"),
        (2, "method", "guessed", "method"),
        (-1, "rows", 10**9, "rows were written"),
        (-1, "rows", -1, "rows"),
    ],
)
def test_forged_values_are_refused_and_named(
    path: Path, line: int, place: str, value: object, said: str
) -> None:
    """Hashes that fit are no proof: everybody can make them."""
    bodies = lines_of(path)
    *outer, last = place.split(".")
    body = bodies[line]
    for name in outer:
        body = body[name]
    body[last] = value
    rewrite(path, bodies)
    with pytest.raises(DataFormatError, match=said):
        tables.load(path)
