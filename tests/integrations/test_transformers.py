"""Hugging Face's Trainer trains, logs, saves and resumes a criterion as the plain loop does."""

import pytest
import torch

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, GradBalance, Uncertainty
from tests.integrations.small import ROWS, Task, assert_equal, groups, make_optimizer, reference, rows

transformers = pytest.importorskip("transformers", reason="pip install 'lossbalance[transformers]'")
from lossbalance.integrations.transformers import WeightedLossCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")
DATA = [{"x": x, "y": y} for x, y in zip(*rows(), strict=True)]


def make_trainer(model, folder, callbacks=(), steps=20, optimizer=None, **options):
    settings = {
        "max_steps": steps,
        "per_device_train_batch_size": ROWS,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 5,
        "save_steps": 10,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
    }
    args = transformers.TrainingArguments(output_dir=str(folder), **settings | options.pop("settings", {}))
    optimizers = (optimizer, None)
    return transformers.Trainer(
        model, args, train_dataset=DATA, callbacks=list(callbacks), optimizers=optimizers, **options
    )


def test_a_criterion_in_the_model_is_trained_and_resumed_as_in_the_plain_loop(tmp_path):
    expected, task = reference(), Task()
    whole = WeightedLossCallback(task.criterion)
    make_trainer(task, tmp_path, [whole]).train()
    assert_equal(task, expected)  # the Trainer alone would put log_variance under weight decay

    resumed = Task()
    half = WeightedLossCallback(resumed.criterion)
    make_trainer(resumed, tmp_path, [half]).train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, task.state_dict()[name]), name
    assert half.monitor.history == whole.monitor.history


class Heads(Task):
    """Returns the outputs of its heads; the criterion is outside of the model."""

    def __init__(self):
        super().__init__()
        del self.criterion

    def forward(self, x):
        h = self.trunk(x).tanh()
        return {"aux": self.aux(h), "main": self.main(h)}


def losses(outputs, labels):
    return {"aux": (outputs["aux"] - 30 * labels).square().mean(), "main": (outputs["main"] - labels).square().mean()}


def fit_outside(criterion, folder, resume=None, **settings):
    """Trains with a criterion that is no part of the model."""
    model, callback = Heads(), WeightedLossCallback(criterion)

    def compute_loss(outputs, labels, num_items_in_batch=None):
        return criterion(losses(outputs, labels))

    trainer = make_trainer(model, folder, [callback], compute_loss_func=compute_loss, settings=settings)
    trainer.train_dataset = [{"x": row["x"], "labels": row["y"]} for row in DATA]
    trainer.train(resume_from_checkpoint=resume)
    return trainer, callback


def test_a_criterion_outside_of_the_model_learns_and_is_resumed_bit_for_bit(tmp_path):
    whole = WeightedLoss(Uncertainty(["aux", "main"], initial_log_variance=0.0))
    trainer, _ = fit_outside(whole, tmp_path)
    assert (whole.weighting.log_variance > 0.05).all()  # from 0 towards ln L

    resumed = WeightedLoss(Uncertainty(["aux", "main"], initial_log_variance=0.0))
    second, _ = fit_outside(resumed, tmp_path, str(tmp_path / "checkpoint-10"))
    assert torch.equal(resumed.weighting.log_variance, whole.weighting.log_variance)
    for one, other in zip(trainer.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_contributions_in_the_log_add_up_to_the_loss_that_the_trainer_logs(tmp_path):
    trainer, callback = fit_outside(WeightedLoss(Equal(["aux", "main"])), tmp_path, gradient_accumulation_steps=2)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 4
    for log in logs:  # the loss is the sum over the two accumulated batches
        assert 2 * (log["contribution/aux"] + log["contribution/main"]) == pytest.approx(log["loss"], rel=1e-5)
        assert log["loss/aux"] == pytest.approx(log["contribution/aux"])
    assert set(callback.monitor.last_epoch) == {"aux", "main"}


def test_a_callback_that_is_attached_comes_before_those_that_report(tmp_path):
    seen = []

    class Reports(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append("weight/aux" in logs)

    task = Task()
    callback = WeightedLossCallback(task.criterion)
    trainer = make_trainer(task, tmp_path, [Reports(), callback], steps=5)
    callback.attach(trainer)
    trainer.train()
    assert seen[0]


def test_a_loss_without_gradient_is_named(tmp_path):
    task = Task(detach=True)
    with pytest.warns(UserWarning, match="'aux' has no gradient"):
        make_trainer(task, tmp_path, [WeightedLossCallback(task.criterion)]).train()


def test_learned_weights_that_the_optimizer_lacks_are_named_where_no_callback_trains_them(tmp_path):
    criterion = WeightedLoss(Uncertainty(["aux", "main"]))
    trainer = make_trainer(
        Heads(), tmp_path, compute_loss_func=lambda outputs, labels, **_: criterion(losses(outputs, labels))
    )
    trainer.train_dataset = [{"x": row["x"], "labels": row["y"]} for row in DATA]
    with pytest.warns(UserWarning, match=r"no optimizer updates `Uncertainty.log_variance`"):
        trainer.train()


def test_the_optimizer_of_the_trainer_puts_learned_weights_under_decay_which_the_check_names(tmp_path):
    task = Task()
    optimizer = make_trainer(task, tmp_path).create_optimizer()
    with pytest.raises(ValueError, match=r"`Uncertainty.log_variance` is under a weight decay of 0.1"):
        task.criterion.check(optimizer)


def test_an_optimizer_of_the_users_own_is_left_as_it_is(tmp_path):
    task = Task()
    optimizer = make_optimizer(task)
    make_trainer(task, tmp_path, [WeightedLossCallback(task.criterion)], optimizer=optimizer).train()
    assert_equal(task, reference())
    assert [len(group["params"]) for group in optimizer.param_groups] == [len(each["params"]) for each in groups(task)]


def test_the_router_loss_of_a_mixture_of_experts_is_a_term(tmp_path):
    config = transformers.MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
        output_router_logits=True,
        router_aux_loss_coef=0.0,  # the criterion weighs it
    )
    model = transformers.MixtralForCausalLM(config)
    criterion = WeightedLoss(GradBalance(["router", "text"], ratios={"router": 1, "text": 99}))
    tokens = torch.randint(0, 32, (2, 8))
    outputs = model(input_ids=tokens, labels=tokens)
    losses = {"router": outputs.aux_loss, "text": outputs.loss}
    criterion(losses, shared=model.model.layers[0].input_layernorm.weight).backward()
    shares = criterion.last.gradient_shares
    assert shares["router"].item() == pytest.approx(0.01, abs=1e-4)


def test_the_losses_of_a_detector_are_terms_and_its_metric_is_not():
    loss_dict = {"loss_ce": torch.ones((), requires_grad=True), "loss_bbox": torch.ones((), requires_grad=True)}
    loss_dict |= {"loss_giou": torch.ones((), requires_grad=True), "cardinality_error": torch.ones(())}
    terms = [name for name, loss in loss_dict.items() if loss.requires_grad]
    criterion = WeightedLoss(Equal(terms))
    criterion({term: loss_dict[term] for term in terms}).backward()  # a warning would be an error
    assert terms == ["loss_ce", "loss_bbox", "loss_giou"]
