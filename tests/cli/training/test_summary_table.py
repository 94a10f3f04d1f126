from lossbalance.cli.training.summary_table import show


def test_the_pairs_that_conflict_most_come_first(capsys):
    conflicts = {"a/b": {"cosine": 0.5, "conflict": 0.125}, "a/c": {"cosine": -0.25, "conflict": 0.75}}
    show({"last_epoch": {}, "metrics": {}, "tested": None, "conflicts": conflicts})
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "%" in line]
    assert [[word for word in row if word.isascii()] for row in rows] == [
        ["a/c", "-0.25", "75%"],
        ["a/b", "0.50", "12%"],
    ]


def test_a_penalty_says_how_many_of_its_weights_are_zero(capsys):
    row = dict.fromkeys(["loss", "weight", "contribution", "value_share", "gradient_share"], 0.5)
    show({"last_epoch": {"main": row, "l1": row | {"zeros": 7.0, "size": 10.0}}, "metrics": {}, "tested": None})

    assert "7 of 10" in capsys.readouterr().out
