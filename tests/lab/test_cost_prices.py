"""Price tables: the shipped one, bands, ages, and every field that can be wrong."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from paceline.base.errors import ConfigError
from paceline.lab.cost_prices import (
    COLUMNS,
    compute_quantile,
    load_prices,
    make_band,
    parse_prices,
    read_day,
    select_rows,
)

SHIPPED = Path("examples/econ/prices.csv")
HEADER = ",".join(COLUMNS)
GOOD = "AWS,cloud,H100,8,on-demand,98.32,a page,2026-06-24,"
TODAY = date(2026, 7, 1)


def parse(*lines, header=HEADER):
    return parse_prices("\n".join([header, *lines]), "table")


def test_the_shipped_table_names_a_source_and_a_day_for_every_row():
    rows = load_prices(SHIPPED)
    assert len(rows) == 59
    assert all(row.source and read_day(row.seen) <= date(2026, 6, 24) for row in rows)
    assert {row.gpu for row in rows} >= {"H100", "H200", "A100 80GB", "RTX 4090"}


def test_a_row_of_eight_gpus_has_the_price_of_one():
    assert parse(GOOD)[0].price == pytest.approx(12.29)
    assert load_prices(SHIPPED)[0].price == pytest.approx(12.29)


def test_rows_that_contradict_each_other_make_a_band_and_no_mean():
    rows = parse(*(f"p{price},cloud,H100,1,spot,{price},s,2026-06," for price in (1, 2, 3, 4, 100)))
    band = make_band(rows, TODAY)
    assert (band.low, band.median, band.high) == (pytest.approx(1.4), 3.0, pytest.approx(61.6))
    assert band.describe() == "5 rows, 0 older than 90 days; 10th, 50th and 90th percentile"
    single = make_band(rows[:1], TODAY)
    assert (single.low, single.high, single.describe()) == (1.0, 1.0, "1 row, 0 older than 90 days")


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 2.5), (1.0, 4.0), (0.25, 1.75)])
def test_quantiles_lie_between_neighbours(share, expected):
    assert compute_quantile([1.0, 2.0, 3.0, 4.0], share) == expected


def test_a_row_is_stale_from_the_91st_day_on_and_a_month_counts_from_its_first():
    day = parse(GOOD)[0]
    assert not day.is_stale(date(2026, 9, 22)) and day.is_stale(date(2026, 9, 23))
    month = parse(GOOD.replace("2026-06-24", "2026-06"))[0]
    assert month.is_stale(date(2026, 8, 31)) and not month.is_stale(date(2026, 8, 30))
    assert make_band((day, month), date(2026, 9, 1)).stale == 1
    assert read_day("2026") == date(2026, 1, 1)


def test_the_note_is_optional_and_comments_and_empty_lines_are_skipped():
    text = "# about\n\n" + HEADER.removesuffix(",note") + "\n# more\n" + GOOD.removesuffix(",") + "\n"
    row = parse_prices(text, "table")[0]
    assert (row.note, row.line) == ("", 5)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (GOOD.replace("AWS", ""), "line 2, provider"),
        (GOOD.replace("cloud", "sky"), "line 2, kind: 'sky'"),
        (GOOD.replace(",8,", ",0,"), "line 2, gpus"),
        (GOOD.replace(",8,", ",eight,"), "line 2, gpus: 'eight' is no whole number"),
        (GOOD.replace(",8,", ",1025,"), "line 2, gpus"),
        (GOOD.replace(",8,", ",1.5,"), "line 2, gpus"),
        (GOOD.replace("on-demand", "free"), "line 2, tier"),
        (GOOD.replace("98.32", "-1"), "line 2, dollars_per_hour"),
        (GOOD.replace("98.32", "0"), "line 2, dollars_per_hour"),
        (GOOD.replace("98.32", "nan"), "line 2, dollars_per_hour"),
        (GOOD.replace("98.32", "inf"), "line 2, dollars_per_hour"),
        (GOOD.replace("98.32", "$98"), "line 2, dollars_per_hour"),
        (GOOD.replace("98.32", "2000000"), "line 2, dollars_per_hour"),
        (GOOD.replace("a page", ""), "line 2, source"),
        (GOOD.replace("2026-06-24", ""), "line 2, seen"),
        (GOOD.replace("2026-06-24", "last week"), "line 2, seen"),
        (GOOD.replace("2026-06-24", "2026-13"), "line 2, seen"),
        (GOOD.replace("2026-06-24", "2026-02-30"), "line 2, seen"),
        (GOOD + ",more", "line 2: 10 fields, the header has 9"),
        ("AWS,cloud", "line 2: 2 fields"),
        ('"AWS,cloud', "line 2: "),
    ],
)
def test_invalid_rows_name_line_and_field(line, named):
    with pytest.raises(ConfigError, match=named):
        parse(line)


def test_invalid_tables_say_what_is_missing():
    with pytest.raises(ConfigError, match="no header"):
        parse_prices("# nothing\n", "table")
    with pytest.raises(ConfigError, match="no rows"):
        parse()
    with pytest.raises(ConfigError, match="line 1, 'cost': the columns must be"):
        parse(GOOD, header=HEADER.replace("dollars_per_hour", "cost"))
    with pytest.raises(ConfigError, match="line 1, 'source'"):
        parse(GOOD, header=HEADER.replace("source,", ""))
    with pytest.raises(ConfigError, match="line 1, the columns must be"):
        parse(GOOD, header="kind,provider" + HEADER.removeprefix("provider,kind"))
    with pytest.raises(ConfigError, match="line 3: the same row as line 2"):
        parse(GOOD, GOOD)
    with pytest.raises(ConfigError, match=r"none\.csv"):
        load_prices(Path("none.csv"))


def test_invalid_choices_say_what_there_is():
    rows = parse(GOOD)
    assert select_rows(rows, "H100", ("cloud",), provider="AWS", tier="on-demand") == rows
    with pytest.raises(ConfigError, match="'B300'; there are rows for H100"):
        select_rows(rows, "B300", ("cloud",))
    with pytest.raises(ConfigError, match="fits market; there are cloud/AWS/on-demand"):
        select_rows(rows, "H100", ("market",))
    for changed in ({"provider": "GCP"}, {"tier": "spot"}):
        with pytest.raises(ConfigError, match="no row for H100 fits cloud, "):
            select_rows(rows, "H100", ("cloud",), **changed)
    with pytest.raises(ConfigError, match="--on 2026-06-23: the price in line 2 was seen later, 2026-06-24"):
        make_band(rows, date(2026, 6, 23))
