"""The examples run, and show what they say."""

import importlib
import json
import sys
from pathlib import Path

import matplotlib
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a monitor draws a picture


def run(name, **settings):
    return importlib.import_module(name).main(**settings)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec")
def test_a_callback_balances_the_gradients_of_a_module_that_knows_nothing_of_it():
    last = run("lightning_callback")
    assert 0.3 < last["aux"]["gradient_share"] < 0.7  # a plain sum: above .99


def test_the_main_head_gets_its_ratio_and_learns():
    assert run("auxiliary_heads")["main"] < 0.5  # chance: .69


def test_tasks_in_three_units_are_learned_though_labels_are_missing():
    assert max(run("missing_labels").values()) < 0.2


def test_a_physics_informed_network_solves_its_equation():
    assert run("pinn") < 0.05  # a plain sum: .48


def test_the_divergence_ends_at_its_whole_weight():
    assert run("vae", epochs=4)["kl"] == 1.0


def test_the_router_has_one_percent_of_the_gradient():
    shares = run("mixture_of_experts")
    assert shares["router"] == pytest.approx(0.01, abs=0.005)


def test_the_relevant_inputs_are_those_of_the_lasso_and_no_noise_is_among_them():
    found = run("relevant_inputs")
    assert found["linear model, L1"] == found["lasso of scikit-learn"]
    for inputs in found.values():
        assert {"bmi", "bp", "s5"} < set(inputs)
        assert not any(name.startswith("noise") for name in inputs)


def run_notebook(name):
    notebook = json.loads((EXAMPLES / name).read_text())
    names = {"__name__": "notebook"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), name, "exec"), names)
    return names


def test_the_notebook_of_the_physics_informed_network_finds_the_solution():
    matplotlib.use("agg")
    assert run_notebook("pinn.ipynb")["error"] < 0.05


def test_the_notebook_of_auxiliary_heads_gives_the_main_one_its_share(capsys):
    shares = run_notebook("auxiliary_heads.ipynb")["shares"]
    assert shares["GradBalance 1:4"] == pytest.approx(0.8, abs=0.1)
    assert shares["plain sum"] < 0.01
    assert "GradBalance 1:4: main loss" in capsys.readouterr().out
