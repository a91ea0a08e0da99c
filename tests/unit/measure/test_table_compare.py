"""Diff and merge of tables."""

import pytest
import table_samples as samples
from table_samples import DOWN, NEXT, STEM, block_row, network, network_row, setting

from hwnas.errors import DataFormatError, InputError
from hwnas.measure import compare
from hwnas.measure.rows import FailureRow, RepeatRow
from hwnas.measure.table import LatencyTable


def test_same() -> None:
    found = compare.diff(samples.table(), samples.table(1.015))
    assert found.verdict == "same"
    assert found.median_ratio == pytest.approx(1.015)
    assert found.keys == 5


def test_one_common_factor() -> None:
    assert compare.diff(samples.table(), samples.table(1.10)).verdict == "slower"
    assert compare.diff(samples.table(), samples.table(0.90)).verdict == "faster"


def test_different_when_keys_move_apart() -> None:
    other = samples.table()
    for block, factor in zip(samples.TIMES, (0.8, 1.2, 1.5, 0.9, 1.1)):
        other.rows[block] = block_row(block, samples.TIMES[block] * factor)
    found = compare.diff(samples.table(), other)
    assert found.verdict == "different"
    key, ratio = found.worst[0]
    assert key == DOWN.key
    assert ratio == pytest.approx(1.5)


def test_diff_names_lone_keys_and_conditions() -> None:
    other = samples.table(setting=setting(threads=2))
    del other.rows[NEXT]
    found = compare.diff(samples.table(), other)
    assert found.only_a == (NEXT.key,)
    assert found.conditions == ("threads: 1 -> 2",)


def test_nothing_in_common() -> None:
    with pytest.raises(InputError, match="no block in common"):
        compare.diff(samples.table(), LatencyTable(samples.header()))


def test_merge_takes_the_newer_row_and_keeps_all_networks() -> None:
    old, new = samples.table(), samples.table(1.5, created="2026-02-02T03:04:05+00:00")
    del new.rows[STEM]
    old.add(network_row(network(1, 1), 0.17))
    old.add(RepeatRow(network=network(1, 1).key, value_ms=0.18))
    new.add(network_row(network(2, 1), 0.23))
    new.add(FailureRow(blocks=(STEM,), error="no"))
    merged = compare.merge([old, new])
    assert merged[STEM].value_ms == samples.TIMES[STEM]
    assert merged[DOWN].value_ms == pytest.approx(1.5 * samples.TIMES[DOWN])
    assert len(merged.networks) == 2
    assert len({net.campaign for net in merged.networks}) == 2, "campaigns of two tables are not one"
    assert merged.header.created == old.header.created


def test_merge_refuses_other_conditions() -> None:
    with pytest.raises(DataFormatError, match="batch is 1 and 4") as caught:
        compare.merge([samples.table(), samples.table(setting=setting(batch=4))])
    assert caught.value.exit_status == 6
    with pytest.raises(InputError, match="at least two"):
        compare.merge([samples.table()])
