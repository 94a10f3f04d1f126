"""A monitor of a plain loop gives the means, diagnoses and pictures that Lightning's gives."""

import pytest
import torch

from lossbalance import WeightedLoss
from lossbalance.integrations import LoopMonitor
from lossbalance.weighting import Alpha, Equal


def call(criterion, aux, main):
    criterion({"aux": torch.tensor(aux, requires_grad=True), "main": torch.tensor(main, requires_grad=True)})


def test_means_are_weighted_by_the_sizes_of_the_batches_and_contributions_add_up():
    criterion = WeightedLoss(Alpha(["aux", "main"], 0.25))
    monitor = LoopMonitor(criterion)
    for aux, size in ((2.0, 30), (4.0, 10)):
        call(criterion, aux, 1.0)
        monitor.update(size)
    means = monitor.end_epoch(validation={"aux": 3.0})
    assert means["loss/aux"] == 2.5
    assert means["weight/aux"] == 0.25
    assert means["contribution/aux"] + means["contribution/main"] == pytest.approx(0.25 * 2.5 + 0.75)
    assert monitor.history == [{"epoch": 0, **means}]
    assert monitor.last_epoch["aux"]["loss"] == 2.5


def test_logs_between_do_not_change_the_epoch_and_a_state_resumes_it():
    criterion = WeightedLoss(Equal(["aux", "main"]))
    monitor = LoopMonitor(criterion)
    call(criterion, 2.0, 1.0)
    monitor.update()
    assert monitor.log()["loss/aux"] == 2.0
    resumed = LoopMonitor(criterion)
    resumed.load_state_dict(monitor.state_dict())
    call(criterion, 4.0, 1.0)
    resumed.update()
    assert resumed.log()["loss/aux"] == 4.0
    assert resumed.end_epoch()["loss/aux"] == 3.0


def test_a_picture_has_training_and_validation():
    pytest.importorskip("matplotlib")
    criterion = WeightedLoss(Equal(["aux", "main"]))
    monitor = LoopMonitor(criterion)
    for epoch in range(2):
        call(criterion, 2.0 - epoch, 2.0 - epoch)
        monitor.update()
        monitor.end_epoch(validation={"aux": 3.0, "main": 2.0})
    figure = monitor.plot(title="mine")
    assert figure.get_suptitle() == "mine"
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[3.0, 3.0], [2.0, 2.0], []]


def test_monitor_criterion_and_breakdown_show_themselves_in_a_notebook_with_names_escaped():
    criterion = WeightedLoss(Equal(["a<b", "main"]))
    monitor = LoopMonitor(criterion)
    assert "No epoch" in monitor._repr_html_()
    assert criterion._repr_html_().startswith("<pre>WeightedLoss")
    criterion({"a<b": torch.tensor(2.0, requires_grad=True), "main": None})
    monitor.update()
    monitor.end_epoch()
    for html in (monitor._repr_html_(), criterion._repr_html_(), criterion.last._repr_html_()):
        assert "<th>a&lt;b</th><td>2</td><td>1</td><td>2</td>" in html
        assert "a<b" not in html


def test_what_is_no_criterion_is_refused():
    with pytest.raises(TypeError, match="`criterion` must be a WeightedLoss, got 3"):
        LoopMonitor(3)
