from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import msgspec
import pytest
from comparison_groups import fake_record, make_config, make_example_group, make_row

from paceline.base.errors import WorkError
from paceline.lab.training.charts import draw_group
from paceline.lab.training.compare import estimate, make_groups, make_single
from paceline.lab.training.config import DataTable
from paceline.lab.training.pool import Store
from paceline.lab.training.record import compute_ddp_bytes, read_record, write_points, write_record
from paceline.lab.training.report import write_page
from paceline.lab.training.summary import list_sentences, make_lines, show_bytes, show_factor, write_csv
from paceline.lab.training.tuning import Choice


def test_the_interval_is_students() -> None:
    # Mean 2, standard deviation 1, three values: 4.303 / sqrt(3) = 2.484 on either side.
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.low == pytest.approx(2.0 - 2.4843, abs=1e-3)
    assert found.high == pytest.approx(2.0 + 2.4843, abs=1e-3)
    assert not found.is_clear
    assert estimate([1.0, 1.01, 1.02]).is_clear


def test_one_seed_has_no_interval_and_many_take_the_normal_one() -> None:
    one = estimate([1.5])
    assert (one.mean, one.low, one.high, one.is_clear) == (1.5, None, None, False)
    many = estimate([0.0, 1.0] * 50)
    assert many.high is not None
    assert many.high - 0.5 == pytest.approx(1.96 * math.sqrt(25 / 99) / 10, rel=1e-6)


def test_gaps_are_paired_by_seed() -> None:
    group = make_example_group()
    gaps = {(pair.label, pair.other): pair.gap for pair in group.pairs}
    assert set(gaps) == {("worse", "DDP"), ("same", "DDP"), ("silent", "DDP"), ("worse", "same")}
    worse = gaps["worse", "DDP"]
    assert worse is not None
    # 2.2 / 2.0, 2.31 / 2.1 and 2.1 / 1.9: about ten per cent each, though the losses themselves overlap.
    assert worse.mean == pytest.approx((0.1 + 0.1 + 2.1 / 1.9 - 1) / 3)
    assert worse.is_clear
    same, silent = gaps["same", "DDP"], gaps["silent", "DDP"]
    assert same is not None and not same.is_clear
    assert silent is not None and (silent.mean, silent.low) == (0.25, None)


def test_a_diverged_seed_leaves_no_mean_and_no_gap() -> None:
    rows = [make_row("a", seeds=2), make_row("b", seeds=2)]
    records = {f"row {place} seed {seed}": fake_record([3.0, 2.0]) for place in range(2) for seed in (1, 2)}
    records["row 1 seed 2"] = fake_record([3.0, None])
    group = make_groups(rows, [Choice(settings={})] * 2, records)[0]
    assert (group.rows[1].loss, group.pairs[0].gap) == (None, None)
    assert "without a finite loss" in list_sentences(group)[0]
    assert write_page([group]).count("diverged") >= 1


def test_bytes_are_compared_with_ddp_in_32_bits() -> None:
    assert compute_ddp_bytes(100, 4) == 600
    assert compute_ddp_bytes(100, 1) == 0
    lines = {line.label: line for line in make_lines(make_example_group())}
    assert (lines["DDP"].times_less, lines["worse"].times_less, lines["silent"].times_less) == (1.0, 30.0, None)


def test_the_target_is_the_baselines_last_loss_of_the_same_seed() -> None:
    rows = [make_row("base", seeds=1, baseline=True), make_row("fast", seeds=1), make_row("never", seeds=1)]
    made = [
        fake_record([4.0, 3.0, 2.0], step_seconds=4.0),
        fake_record([4.0, 2.0, 1.9]),
        fake_record([4.0, 3.0, 2.0001]),
    ]
    records = {f"row {place} seed 1": record for place, record in enumerate(made)}
    group = make_groups(rows, [Choice(settings={})] * 3, records)[0]
    assert [group.compute_seconds_to_target(result) for result in group.rows] == [120.0, 20.0, None]
    assert any("fast at 20 s; base at 120 s" in sentence for sentence in list_sentences(group))


def test_sentences_claim_nothing_from_one_seed_and_name_what_is_not_shown() -> None:
    sentences = list_sentences(make_example_group())
    worse = next(sentence for sentence in sentences if sentence.startswith("worse ends"))
    assert "clear of zero" in worse and "30.0x fewer bytes" in worse
    assert any("same ends" in sentence and "no difference is shown" in sentence for sentence in sentences)
    assert any("silent ends +25.00%" in sentence and "one seed; it sends nothing" in sentence for sentence in sentences)
    assert any("1 of 4 rows have one seed" in sentence for sentence in sentences)


def test_the_csv_holds_every_line() -> None:
    group = make_example_group()
    rows = list(csv.DictReader(io.StringIO(write_csv([group]))))
    assert [row["label"] for row in rows] == ["DDP", "worse", "same", "silent"]
    assert float(rows[1]["gap"]) == pytest.approx(0.1017, abs=1e-4)
    assert rows[3]["gap_low"] == ""


def test_the_page_is_whole_and_escapes_labels() -> None:
    page = write_page([make_example_group()], quick=True, title="<b>")
    assert "<title>&lt;b&gt;</title>" in page
    assert "A quick run" in page and "What these figures do not show" in page
    assert "<script src" not in page and "rate 0.002: diverged" in page
    assert "A quick run" not in write_page([make_example_group()])


def test_lines_over_bytes_leave_out_what_sends_nothing() -> None:
    tokens, over_bytes, _time = draw_group(make_example_group())
    assert [len(line.x) for line in tokens.data] == [3, 3, 3, 3]
    assert [len(line.x) for line in over_bytes.data] == [3, 3, 3, 0]
    assert tokens.data[0].y[-1] == pytest.approx(2.0)
    silent = make_single(make_config(), fake_record([3.0, 2.0], bytes_per_step=0.0))
    assert len(draw_group(silent)) == 2


def test_records_survive_the_disk_and_damaged_ones_are_none(tmp_path: Path) -> None:
    record, path = fake_record([3.0, None]), tmp_path / "runs" / "one.json"
    write_record(record, path)
    assert read_record(path) == record
    assert write_points(record).splitlines()[2] == "20,2000,20.0,48000,,1.0"
    path.write_bytes(path.read_bytes()[:-20])
    assert read_record(path) is None
    assert read_record(tmp_path / "none.json") is None


def test_invalid_place_for_a_record_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkError, match="was not written"):
        write_record(fake_record([1.0]), tmp_path / "file" / "one.json")
    (tmp_path / "taken").mkdir()
    with pytest.raises(WorkError, match="taken"):
        write_record(fake_record([1.0]), tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_a_record_is_found_by_configuration_and_by_what_its_data_hold(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    store = Store(records=tmp_path, tokens=tmp_path)
    names = []
    for content in ("one", "two", "one"):
        text.write_text(content)
        config = msgspec.structs.replace(make_config(), data=DataTable(source=str(text)))
        names.append(store.get_path(config))
    assert names[0] == names[2] != names[1]


def test_amounts_as_people_read_them() -> None:
    assert [show_bytes(count) for count in (0, 999, 1000, 2.5e6, 3e9, 4e12)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "2.50 MB",
        "3.00 GB",
        "4.00 TB",
    ]
    assert [show_factor(factor) for factor in (1.0, 30.0, 1303.2, math.inf)] == [
        "1.00x",
        "30.0x",
        "1,303x",
        "sends nothing",
    ]
