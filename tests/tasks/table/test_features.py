import numpy as np
import pandas as pd
import pytest

from lossbalance.tasks.table.features import Encoder


def features(training=None, **columns):
    frame = pd.DataFrame(columns)
    return Encoder.fit(frame, np.arange(len(frame) if training is None else training)).encode(frame).T.tolist()


def test_numbers_are_standardized_by_the_training_rows():
    assert features(3, x=[1.0, 2.0, 6.0, 9.0])[0] == pytest.approx(
        [(x - 3) / np.std([1, 2, 6]) for x in (1.0, 2.0, 6.0, 9.0)]
    )


def test_a_missing_or_infinite_number_is_the_mean_and_is_told():
    number, missing = features(x=[1.0, np.nan, 3.0, np.inf, 2.0])
    assert number[1] == number[3] == 0
    assert number[0] == -number[2] < 0
    assert missing == [0, 1, 0, 1, 0]


def test_two_numbers_and_yes_and_no_are_0_and_1():
    assert features(x=[3, 7, 3, 3], flag=[True, False, False, True]) == [[0, 1, 0, 0], [1, 0, 0, 1]]


def test_words_are_columns_of_their_own_and_so_is_the_missing_one():
    assert features(x=["b", "a", None, "a"]) == [[0, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0]]


def test_a_word_that_no_training_row_has_is_none_of_them():
    assert features(2, x=["a", "b", "c"]) == [[1, 0, 0], [0, 1, 0]]


def test_dates_are_numbers():
    (days,) = features(x=pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-06"]))
    assert np.diff(days).tolist() == pytest.approx([1 / np.std([0, 1, 5]), 4 / np.std([0, 1, 5])])


def test_what_is_always_the_same_is_left_out():
    assert len(features(2, x=[1, 1, 2], word=["a", "a", "b"], y=[1.0, 2.0, 3.0])) == 1
    with pytest.raises(ValueError, match=r"`task.features` must name columns that tell the rows apart, got \['x'\]"):
        features(x=[1, 1])


def test_a_column_of_names_is_refused_and_the_message_says_how_to_leave_it_out():
    with pytest.raises(ValueError, match=r"got 'id' with 30 different texts in 30 rows: .* 'task.ignore=\[id\]'"):
        features(id=[f"name {number}" for number in range(30)])
