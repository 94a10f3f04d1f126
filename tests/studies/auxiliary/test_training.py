"""Training of stacked copies of the study of auxiliary losses."""

import torch

from lossbalance import WeightedLoss
from lossbalance.conflict import Gate, Protect
from lossbalance.weighting import Equal
from studies.auxiliary.cases import HARMFUL, make_case
from studies.auxiliary.methods import HELD_OUT, METHODS, TERMS, StackedMethods
from studies.auxiliary.training import Batches, train
from studies.one_run.multitask import Heads, MultiTaskNet


def test_a_copy_is_trained_as_weighted_loss_with_a_branch_trains_it():
    case = make_case("diabetes", HARMFUL, rows=40, seed=0)
    heads = Heads(case.targets)
    torch.manual_seed(0)
    net = MultiTaskNet(case.inputs.shape[1], 8, sum(heads.outputs))
    rows = [torch.arange(0, 16), torch.arange(16, 32), torch.arange(8, 24)]
    names = ["Protect", "Gate", HELD_OUT]
    methods = StackedMethods({name: METHODS[name] for name in names})
    (trained,) = train(net, case, methods, Batches(rows, rows), lr=0.01, interval=3)

    for copy, aggregator in enumerate((Protect("main"), Gate("main"))):
        torch.manual_seed(0)
        ours = MultiTaskNet(case.inputs.shape[1], 8, sum(heads.outputs))
        criterion = WeightedLoss(Equal(TERMS), conflict=aggregator)
        optimizer = torch.optim.Adam(ours.parameters(), 0.01)
        for step in rows:
            optimizer.zero_grad()
            h = criterion.branch(ours.trunk(case.inputs[step]))
            losses = {
                term: heads.losses(ours.head(h[term]).unsqueeze(0), case.labels[step])[0, index]
                for index, term in enumerate(TERMS)
            }
            criterion(losses).backward()
            optimizer.step()
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(trained[name][copy], parameter.detach(), rtol=1e-3, atol=1e-4)
