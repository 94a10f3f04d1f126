import copy

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.penalties import L1, L2, Attachment, ElasticNet
from lossbalance.weighting import Equal

WEIGHT_DECAY = 0.1
EVERYTHING = "."  # torch's own weight decay counts biases too


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def batches(count=6):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 4, generator=generator) for _ in range(count)]


def train(net, optimizer, penalty=None, criterion=None, closures=False, scaler=None, clip=None, attachment=None):
    """An ordinary loop; with ``criterion`` the penalty is in the total."""
    for x in batches():

        def compute(x=x):
            optimizer.zero_grad()
            data = net(x).square().mean()
            total = data if criterion is None else criterion({"data": data}, module=net)
            (total if scaler is None else scaler.scale(total)).backward()
            return total

        if closures:
            optimizer.step(compute)
            continue
        compute()
        if scaler is not None and clip is not None:
            scaler.unscale_(optimizer)
        if attachment is not None:
            attachment.before_clipping()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    return [parameter.detach() for parameter in net.parameters()]


def in_the_loss(penalty, optimizer=torch.optim.SGD, **how):
    net = make_net()
    criterion = WeightedLoss(Equal(["data"]), penalties={"penalty": penalty})
    return train(net, optimizer(net.parameters(), lr=0.1), criterion=criterion, **how)


def attached(penalty, optimizer=torch.optim.SGD, **how):
    net = make_net()
    optimizer = optimizer(net.parameters(), lr=0.1)
    penalty.attach(optimizer, net)
    return train(net, optimizer, **how)


@pytest.mark.parametrize("closures", [False, True])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("kind", [L1, L2, lambda s, **rest: ElasticNet(s, 2 * s, **rest)], ids=["l1", "l2", "elastic"])
def test_mode_gradient_makes_the_steps_of_mode_loss(kind, optimizer, closures):
    expected = in_the_loss(kind(0.05, normalization="fan"), optimizer)

    torch.testing.assert_close(
        attached(kind(0.05, normalization="fan", mode="gradient"), optimizer, closures=closures), expected
    )


def test_mode_gradient_makes_the_steps_of_weight_decay_in_sgd():
    net = make_net()
    expected = train(net, torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=WEIGHT_DECAY))

    torch.testing.assert_close(attached(L2(WEIGHT_DECAY / 2, include=EVERYTHING, mode="gradient")), expected)


@pytest.mark.parametrize("how", [{}, {"closures": True}, {"scaler": True}], ids=str)
@pytest.mark.parametrize("fused", [False, True])
def test_mode_decoupled_makes_the_steps_of_adamw(how, fused):
    def scaler():
        return {"scaler": torch.amp.GradScaler("cpu", init_scale=2.0**10)} if "scaler" in how else how

    net, decayed = make_net(), make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, fused=fused)
    L2(WEIGHT_DECAY / 2, include=EVERYTHING, mode="decoupled").attach(optimizer, net)

    expected = train(
        decayed, torch.optim.AdamW(decayed.parameters(), lr=0.1, weight_decay=WEIGHT_DECAY, fused=fused), **scaler()
    )

    torch.testing.assert_close(train(net, optimizer, **scaler()), expected)


def test_mode_decoupled_follows_the_learning_rate_of_each_group():
    def groups(net):
        return [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[2].parameters(), "lr": 0.01}]

    net, decayed = make_net(), make_net()
    optimizer = torch.optim.Adam(groups(net))
    reference = torch.optim.AdamW(groups(decayed), weight_decay=WEIGHT_DECAY)
    L2(WEIGHT_DECAY / 2, include=EVERYTHING, mode="decoupled").attach(optimizer, net)
    for each in optimizer, reference:
        each.param_groups[0]["lr"] = 0.05  # as a scheduler does

    torch.testing.assert_close(train(net, optimizer), train(decayed, reference))


def test_a_learning_rate_may_be_a_tensor():
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=torch.tensor(0.1))
    L2(0.05, mode="decoupled").attach(optimizer, net)

    torch.testing.assert_close(train(net, optimizer), attached(L2(0.05, mode="decoupled")))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("mode", ["gradient", "decoupled"])
def test_a_gradient_scaler_changes_nothing_and_a_step_it_skips_applies_nothing(mode, fused):
    def stepping(scaler):
        net = make_net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=fused)
        L2(0.05, mode=mode).attach(optimizer, net)
        return net, optimizer, scaler

    net, optimizer, scaler = stepping(torch.amp.GradScaler("cpu", init_scale=2.0**10))
    torch.testing.assert_close(train(net, optimizer, scaler=scaler), attached(L2(0.05, mode=mode)))

    net, optimizer, scaler = stepping(torch.amp.GradScaler("cpu", init_scale=2.0**10))
    before = copy.deepcopy(list(net.parameters()))
    scaler.scale(net(torch.full((1, 4), torch.inf)).sum()).backward()
    scaler.step(optimizer)
    torch.testing.assert_close(list(net.parameters()), before, rtol=0, atol=0)


def test_over_accumulated_batches_the_penalty_counts_once():
    net, whole = make_net(), make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    L2(0.05, mode="gradient").attach(optimizer, net)
    x = torch.cat(batches(2))
    for part in x.chunk(2):
        (net(part).square().mean() / 2).backward()
    optimizer.step()

    expected = torch.optim.SGD(whole.parameters(), lr=0.1)
    (whole(x).square().mean() + L2(0.05)(whole)).backward()
    expected.step()

    torch.testing.assert_close(list(net.parameters()), list(whole.parameters()))


def test_the_penalty_is_clipped_with_the_data_or_not_as_one_chooses():
    strong = {"strength": 5.0, "mode": "gradient"}  # far above the threshold
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    clipped = train(net, optimizer, clip=0.1, attachment=L2(clipped=True, **strong).attach(optimizer, net))
    torch.testing.assert_close(clipped, in_the_loss(L2(5.0), clip=0.1))

    net = make_net()
    unclipped = train(net, torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=10.0), clip=0.1)
    torch.testing.assert_close(attached(L2(include=EVERYTHING, **strong), clip=0.1), unclipped)


def test_without_a_call_before_clipping_the_penalty_is_applied_all_the_same():
    torch.testing.assert_close(attached(L2(0.05, mode="gradient", clipped=True)), in_the_loss(L2(0.05)))


def test_a_weight_that_the_data_does_not_reach_is_penalized_as_in_mode_loss():
    net = make_net()
    L2(0.05, mode="gradient").attach(optimizer := torch.optim.SGD(net.parameters(), lr=0.1), net)
    before = net[2].weight.detach().clone()

    optimizer.step()  # no backward pass, nothing to do
    torch.testing.assert_close(net[2].weight, before)
    net[0](batches()[0]).sum().backward()
    optimizer.step()
    torch.testing.assert_close(net[2].weight, before * (1 - 0.1 * 2 * 0.05))


def test_an_optimizer_applies_the_penalty_to_its_own_parameters_alone():
    net = make_net()
    optimizer = torch.optim.SGD(net[0].parameters(), lr=0.1)
    L2(0.05, mode="gradient").attach(optimizer, net)

    net(batches()[0]).sum().backward()
    before = net[2].weight.grad.clone()
    optimizer.step()

    torch.testing.assert_close(net[2].weight.grad, before)


def test_attached_twice_is_refused_and_after_removal_the_steps_are_plain():
    net = make_net()
    penalty, optimizer = L2(0.05, mode="gradient"), torch.optim.SGD(net.parameters(), lr=0.1)
    attachment = penalty.attach(optimizer, net)
    with pytest.raises(ValueError, match="`optimizer` applies the penalty already"):
        penalty.attach(optimizer, net)

    attachment.remove()
    attachment.remove()

    plain = make_net()
    expected = train(plain, torch.optim.SGD(plain.parameters(), lr=0.1))
    torch.testing.assert_close(train(net, optimizer), expected, rtol=0, atol=0)
    penalty.attach(optimizer, net)


def test_an_optimizer_of_other_parameters_is_refused():
    with pytest.raises(ValueError, match="and it holds none of them"):
        L2(0.05, mode="gradient").attach(torch.optim.SGD(make_net().parameters(), lr=0.1), make_net())


def test_the_criterion_attaches_what_is_not_in_its_total():
    net = make_net()
    penalties = {"l1": L1(0.01), "l2": L2(0.05, mode="gradient")}
    criterion = WeightedLoss(Equal(["data"]), penalties=penalties)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    attachment = criterion.attach(optimizer, net)

    assert isinstance(attachment, Attachment)
    torch.testing.assert_close(train(net, optimizer, criterion=criterion), in_the_loss(ElasticNet(0.01, 0.05)))


def test_a_value_that_is_not_in_the_total_is_computed_when_it_is_read(monkeypatch):
    net, calls = make_net(), []
    penalty = L2(0.05, mode="gradient")
    criterion = WeightedLoss(Equal(["data"]), penalties={"l2": penalty})
    measure = L2.measure
    monkeypatch.setattr(L2, "measure", lambda self, *args: calls.append(1) or measure(self, *args))

    total = criterion({"data": torch.tensor(3.0)}, module=net)
    last = criterion.last

    assert (total.item(), last.losses["data"].item(), calls) == (3.0, 3.0, [])
    torch.testing.assert_close(last.penalties["l2"], L2(0.05)(net).detach())
    assert not last.penalties["l2"].requires_grad
    assert len(calls) == 2


def test_a_penalty_that_is_attached_to_no_optimizer_is_reported():
    criterion = WeightedLoss(Equal(["data"]), penalties={"l2": L2(0.05, mode="decoupled")})
    criterion({"data": torch.tensor(3.0)})

    with pytest.warns(
        UserWarning, match="penalty 'l2' has mode='decoupled' but is attached to no optimizer: call `criterion.attach"
    ):
        criterion({"data": torch.tensor(3.0)})


def test_an_unknown_mode_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"`mode` must be one of .*got 'gradeint' \(did you mean 'gradient'"):
        L2(1.0, mode="gradeint")


def test_clipping_is_a_choice_of_mode_gradient_alone():
    with pytest.raises(ValueError, match="`clipped` must be False in mode 'decoupled'"):
        L2(1.0, mode="decoupled", clipped=True)


@pytest.mark.parametrize("mode", ["loss", "gradient", "decoupled", "proximal"])
@pytest.mark.parametrize("share", [False, True])
def test_a_sparse_gradient_makes_the_step_of_a_dense_one(mode, share):
    if share and mode in ("decoupled", "proximal"):
        return

    def step(sparse):
        embedding = nn.Embedding(5, 3, sparse=sparse)
        embedding.weight.data.copy_(torch.arange(15).view(5, 3) / 7 - 1)
        criterion = WeightedLoss(
            Equal(["data"]),
            penalties={"l1": L1(mode=mode, **({"share": 0.1} if share else {"strength": 0.3}))},
        )
        optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
        criterion.attach(optimizer, embedding)
        criterion({"data": embedding(torch.tensor([1, 2])).square().sum()}, module=embedding).backward()
        report = criterion.report_penalties()["l1"]
        optimizer.step()
        return embedding.weight.detach(), report

    torch.testing.assert_close(step(sparse=True), step(sparse=False))


def test_sparse_adam_takes_the_modes_without_a_gradient_and_refuses_the_others_by_name():
    embedding = nn.Embedding(5, 3, sparse=True)
    for mode in "loss", "gradient":
        criterion = WeightedLoss(Equal(["data"]), penalties={"l1": L1(0.3, mode=mode)})
        with pytest.raises(ValueError, match=r"`optimizer` must not be SparseAdam for the penalty L1\(strength=0.3"):
            criterion.attach(torch.optim.SparseAdam(embedding.parameters()), embedding)
    before = embedding.weight.detach().clone()
    optimizer = torch.optim.SparseAdam(embedding.parameters(), lr=0.1)
    L1(0.3, mode="proximal").attach(optimizer, embedding)

    embedding(torch.tensor([1])).sum().backward()
    optimizer.step()

    expected = before.sign() * (before.abs() - 0.03).clamp(min=0)  # of the words that were not read, too
    torch.testing.assert_close(embedding.weight.detach()[2:], expected[2:])


def test_what_is_no_optimizer_and_no_module_is_refused_by_name():
    net = make_net()
    criterion = WeightedLoss(Equal(["data"]), penalties={"l2": L2(0.1, mode="gradient")})
    for attach in criterion.attach, L2(0.1, mode="gradient").attach:
        with pytest.raises(TypeError, match=r"`optimizer` must be a torch.optim.Optimizer, got None"):
            attach(None, net)
        with pytest.raises(TypeError, match=r"`module` must be the torch.nn.Module whose parameters .*, got None"):
            attach(torch.optim.SGD(net.parameters(), lr=0.1), None)
