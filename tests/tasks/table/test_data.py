import numpy as np
import pandas as pd
import pytest
import torch

from lossbalance.tasks.table import TableData
from lossbalance.tasks.table.data import split
from tests.tasks.table.tables import TARGETS, table, write


@pytest.fixture
def path(tmp_path):
    return write(tmp_path)


def test_batches_have_features_labels_and_how_many_labels_there_are(path):
    data = TableData(path, TARGETS, batch_size=16)
    batches = list(data.train_dataloader())
    assert sum(len(batch.features) for batch in batches) == len(data.parts["train"]) == 120
    for batch in batches:
        assert batch.counts == (~batch.labels.isnan()).sum(0).tolist()
        assert batch.features.isfinite().all()
    assert [type(head).__name__ for head in data.heads.values()] == ["Number", "Binary", "Classes"]


def test_the_order_of_the_batches_is_drawn_anew_in_each_epoch_and_is_the_same_for_the_same_seed(path):
    def first(epoch):
        loader = TableData(path, TARGETS).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return next(iter(loader)).features

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_folds_validate_on_disjoint_rows_and_leave_the_test_alone():
    parts = [split(103, seed=0, folds=3, fold=fold) for fold in range(3)]
    assert torch.cat([part["val"] for part in parts]).unique().numel() == 103 - 103 // 5
    assert all(torch.equal(part["test"], parts[0]["test"]) for part in parts)
    for part in parts:
        assert torch.cat(list(part.values())).sort().values.tolist() == list(range(103))


def test_rows_without_any_label_are_left_out(tmp_path):
    frame = table()
    frame.loc[:49, TARGETS] = np.nan
    data = TableData(write(tmp_path, frame), TARGETS)
    assert sum(map(len, data.parts.values())) == 150


def test_features_can_be_chosen_and_left_out(path):
    assert TableData(path, ["price"], features=["size"]).schema.encoder.width == 1
    assert TableData(path, ["price"], ignore=["town", "sold", "grade.of"]).schema.encoder.width == 1


def test_a_feature_that_gives_a_target_away_is_told(path, caplog):
    TableData(path, ["price"])
    assert "Feature 'size' nearly determines target 'price' (correlation 0.9" in caplog.text


@pytest.mark.parametrize("separator", [";", "\t"])
def test_separators_are_told_apart(tmp_path, separator):
    table().to_csv(tmp_path / "table.csv.gz", index=False, sep=separator)
    assert TableData(str(tmp_path / "table.csv.gz"), ["price"]).schema.encoder.width > 1


def test_parquet_is_read_too(tmp_path):
    pytest.importorskip("pyarrow")
    table().to_parquet(tmp_path / "table.parquet")
    ours, theirs = TableData(str(tmp_path / "table.parquet"), TARGETS), TableData(write(tmp_path), TARGETS)
    assert torch.equal(ours.sets["train"].features, theirs.sets["train"].features)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    def missing(*_):
        raise ImportError

    monkeypatch.setattr(pd, "read_parquet", missing)
    (tmp_path / "table.parquet").touch()
    with pytest.raises(ImportError, match="Parquet is read by pyarrow: pip install pyarrow"):
        TableData(str(tmp_path / "table.parquet"), ["price"])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"targets": ["prise"]},
            ValueError,
            r"`task.targets` must be one of .* got 'prise' \(did you mean 'price'\?\)",
        ),
        ({"targets": "price"}, TypeError, r"`task.targets` must be a list of names, .* write \['price'\]"),
        ({"targets": []}, ValueError, "`task.targets` must name at least one"),
        ({"ignore": ["twon"]}, ValueError, r"`task.ignore` must be one of .* \(did you mean 'town'\?\)"),
        ({"features": ["price", "size"]}, ValueError, r"must not have targets among them, got \['price'\]"),
        ({"features": ["size"], "ignore": ["size"]}, ValueError, "must leave a column to predict from"),
        ({"fold": 4}, ValueError, "`fold` must be a whole number, from 0 to 3, got 4"),
        ({"path": "nowhere.csv"}, ValueError, "`task.path` must be a CSV or Parquet file, got 'nowhere.csv': no such"),
    ],
)
def test_what_is_wrong_is_refused(path, settings, error, message):
    with pytest.raises(error, match=message):
        TableData(**{"path": path, "targets": ["price"], **settings})


def test_a_near_name_of_a_file_is_told(path):
    with pytest.raises(ValueError, match=r"\(did you mean 'houses.csv'\?\)"):
        TableData(path.replace("houses", "house"), ["price"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read: No columns"),
        (b"price,size\n", "must have rows below its header"),
        (b"\xff\xfe\x00\x81price", "cannot be read: "),
        (b"price,size\n" + b"1.5,2\n2.5,3\n" * 5, "must have at least 20 rows with a label, got 10"),
        (b"price,size\n" + b"1.5,2\n" * 30, "got 'price': 1.5 in all 30 rows"),
        (
            b"price,size\n" + b"1.5,2\n" * 29 + b"2.5,2\n",
            "got 'price' with .* labels, 1 different, among the",
        ),
    ],
)
def test_a_file_that_does_not_do_is_refused(tmp_path, content, message):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        TableData(str(tmp_path / "table.csv"), ["price"])


def test_words_of_a_csv_file_that_are_all_dates_are_one_feature_and_a_second_one_where_some_are_missing(tmp_path):
    frame = table()
    frame["day"] = [str(day)[:10] for day in pd.date_range("2024-01-31", periods=len(frame))]
    frame["hour"] = [None, *map(str, pd.date_range("2024-01-31", periods=len(frame) - 1, freq="h"))]
    data = TableData(write(tmp_path, frame), ["price"], features=["day", "hour"])
    assert data.schema.encoder.width == 3
    assert all(batch.features.isfinite().all() for batch in data.train_dataloader())


def test_a_column_with_a_day_that_there_is_not_stays_one_of_words(tmp_path):
    frame = table()
    frame["day"] = ["2024-02-29", "2024-02-30"] * 100
    assert TableData(write(tmp_path, frame), ["price"], features=["day"]).schema.encoder.width == 2
