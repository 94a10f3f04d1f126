"""A user's own table."""

import numpy as np
import pandas as pd
import pytest

from studies import one_run
from studies.common.study import train_study
from studies.one_run.study import Settings
from studies.one_run.tables.own_file import read_own_file


@pytest.fixture
def path(tmp_path):
    generator = np.random.default_rng(0)
    columns = {name: generator.normal(size=60) for name in ("x", "z", "price")}
    species = np.array(["ant", "bee", "cat"])[np.arange(60) % 3]
    frame = pd.DataFrame(columns).assign(colour=np.where(columns["x"] > 0, "red", "blue"), species=species)
    frame.loc[:3, ["price", "species"]] = None
    frame.loc[10, "price"] = None
    frame.to_csv(tmp_path / "mine.csv", index=False)
    return tmp_path / "mine.csv"


def test_all_other_columns_are_inputs_and_rows_without_a_label_are_left_out(path):
    table = read_own_file(path, "price, species")
    assert table.inputs.shape == (56, 4)  # x, z, and one column for each colour
    assert [(target.name, target.kind, target.outputs) for target in table.targets] == [
        ("price", "number", 1),
        ("species", "class", 3),
    ]
    assert np.isnan(table.targets[0].values).sum() == 1


def test_a_study_of_an_own_table_trains_on_it_alone(path, tmp_path):
    settings = Settings(table=path, targets="price,species", seeds=1, schemes=("DWA",), steps=2, checkpoints=1, width=4)
    results = train_study(one_run, settings, tmp_path / "out")
    assert set(results["table"]) == {"mine"}
    assert results["test_error"].notna().all()


def test_a_column_that_the_table_lacks_is_refused_by_name(path):
    with pytest.raises(ValueError, match=r"'prize'.*did you mean 'price'"):
        Settings(table=path, targets="prize")
