"""Weighting of the losses of a LightningModule that is not edited: it replaces what ``training_step`` returns."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial, wraps
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lossbalance._utils.checks import check_choice, check_number, did_you_mean
from lossbalance._utils.distributed import world_size
from lossbalance.callbacks.lightning_callback import LightningCallback
from lossbalance.callbacks.scheme_optimizer import SchemeOptimizer
from lossbalance.criterion.weighted_loss import WeightedLoss
from lossbalance.penalties.attachment import Attachment


class BalanceLosses(LightningCallback):
    """Puts the weighted total in place of the loss of any LightningModule.

    The module needs a ``training_step`` that returns ``{"loss": anything, "losses": {name: tensor}}``, the
    plain losses beside the loss that trains the module when the callback is not there::

        trainer = Trainer(callbacks=[BalanceLosses(WeightedLoss(Uncertainty(["aux", "main"])))])

    It needs automatic optimization, which has one optimizer. Under manual optimization, as with a generator and a
    critic, make a :class:`WeightedLoss` an attribute of the module for each optimizer that has several losses, and call
    it in ``training_step``: ``self.manual_backward(self.criterion(losses))``; :class:`LossMonitor` shows them all.

    Parameters of a scheme are trained by an optimizer of the callback's own, Adam without weight decay, one step for
    each step of the module's optimizer. All state is in the checkpoint, as the callback's part:
    a checkpoint without it loads, and one with it loads where the callback is gone.

    Args:
        criterion: Weighs the losses.
        probes: The module in which the branch of each term begins, by its name in the LightningModule:
            ``{"aux": "net.aux_head", "main": "net.head"}``. Gradient schemes need them; under any other they only
            measure the gradient shares.
        shared: Names of parameters for whose gradients a gradient scheme takes its norms, in place of probes; see
            :meth:`WeightedLoss.forward`.
        lr: The learning rate of the scheme's parameters; None for the scheme's own, or else 0.01.
        branch: Name of the module that all terms share, after which one tensor enters those in ``probes``: there the
            criterion's ``conflict`` combines the gradients; see :meth:`WeightedLoss.branch_output`.

    Raises:
        TypeError: If ``criterion`` is not a :class:`WeightedLoss`, ``lr`` not a number, or a name not a string.
        ValueError: If a probe is for an unknown term, ``lr`` is not positive, or there is a branch without probes; when
            training starts, if the module optimizes manually, or lacks a submodule or parameter; in the first step, if
            it returns no ``losses``, or different tensors enter the heads behind ``branch``.
    """

    def __init__(
        self,
        criterion: WeightedLoss,
        probes: Mapping[str, str] | None = None,
        shared: str | Iterable[str] = (),
        lr: float | None = None,
        branch: str | None = None,
    ) -> None:
        if not isinstance(criterion, WeightedLoss):
            raise TypeError(
                f"`criterion` must be a WeightedLoss, got {criterion!r}: write WeightedLoss(...) around it."
            )
        self.criterion = criterion
        self.probes = {check_choice("probes", term, criterion.terms): name for term, name in (probes or {}).items()}
        for term, name in self.probes.items():
            _check_name(f"probes[{term!r}]", "module", name)
        self.shared = [shared] if isinstance(shared, str) else list(shared)
        for name in self.shared:
            _check_name("shared", "parameter", name)
        self.lr = (
            lr if lr is None else check_number("lr", lr, "a positive number", lambda number: 0 < number < math.inf)
        )
        if branch is not None and not self.probes:
            raise ValueError(
                f"`branch` must come with `probes`, which name the head of each term, got branch={branch!r} alone: add "
                f"something like probes={{{criterion.terms[0]!r}: 'net.head'}}."
            )
        self.branch = branch
        self._undo = ExitStack()  # restores the module
        self._ready = False
        self._shared: list[Tensor] = []
        self._attachments: list[Attachment] = []
        self._optimizer: SchemeOptimizer | None = None
        self._resumed: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wraps the module's ``training_step``."""
        if stage == "fit":
            self._undo.close()
            self._ready = False
            self.criterion.step_warnings.ignore_updates()  # its parameters are in an optimizer, that of this callback
            before, after = partial(self._prepare, pl_module), partial(self._balance, pl_module)
            _wrap_training_step(pl_module, before, after, self._undo)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Places the probes, and lets the module's optimizer apply penalties that are not in the total."""
        self._prepare(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts with the state of the checkpoint, if there is one, and with that of rank 0 on every rank."""
        if self._resumed is not None:  # once more, for precision and device are those of the module only now
            self.criterion.load_state_dict(self._resumed["criterion"])
        if world_size() > 1:  # by copies, for spawned processes share the memory of what they were given
            state = trainer.strategy.broadcast(self.criterion.state_dict())
            self.criterion.load_state_dict(state, assign=True)
            self.criterion.to(pl_module.device)
        self.criterion.train()
        groups = self.criterion.parameter_groups(self.lr)
        self._optimizer = SchemeOptimizer(groups, self.criterion.terms, self.criterion.ranks) if groups else None
        if self._optimizer is not None and self._resumed is not None and self._resumed["optimizer"] is not None:
            self._optimizer.load_state_dict(self._resumed["optimizer"], self._resumed["terms"])
        self._resumed = None

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Clears the gradients of the scheme's parameters together with those of the module's."""
        if self._optimizer is not None:
            self._optimizer.optimizer.zero_grad()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reduces measured norms over ranks before one of them may save."""
        if world_size() > 1:
            self.criterion.synchronize()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Updates the scheme's parameters, and adds the gradients of penalties that count in clipping."""
        if self._optimizer is not None:
            self._optimizer.step(trainer.global_step, getattr(trainer.precision_plugin, "scaler", None))
        for attachment in self._attachments:
            attachment.before_clipping()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switches to evaluation, as Lightning switches the module."""
        self.criterion.eval()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switches back to training."""
        self.criterion.train()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restores the module as it was."""
        self._undo.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restores the module as it was."""
        self._undo.close()

    def state_dict(self) -> dict[str, Any]:
        """The state of the criterion, and of the optimizer of its parameters."""
        if self._resumed is not None:
            return self._resumed
        optimizer = (
            None if self._optimizer is None else self._optimizer.optimizer.state_dict()
        )  # None before a training
        return {"terms": list(self.criterion.terms), "criterion": self.criterion.state_dict(), "optimizer": optimizer}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned.

        Raises:
            ValueError: If it belongs to other terms or another scheme.
        """
        self.criterion.load_state_dict(state_dict["criterion"])
        self._resumed = state_dict

    def _prepare(self, module: LightningModule) -> None:
        if self._ready:
            return
        if not module.automatic_optimization:
            raise ValueError(
                f"`BalanceLosses` needs automatic optimization, and {type(module).__name__} has switched it off: "
                "what its `training_step` returns is ignored. Switch it on, or call the criterion in `training_step`."
            )
        module.trainer.precision_plugin.convert_module(self.criterion.to(module.device))
        modules, parameters = dict(module.named_modules()), dict(module.named_parameters())
        heads = {term: _find("probes", "a module", name, modules, module) for term, name in self.probes.items()}
        if self.branch is None:
            self._undo.callback(self.criterion.probe_inputs(heads).remove)
        else:
            shared = _find("branch", "a module", self.branch, modules, module)
            self._undo.callback(self.criterion.branch_output(shared, heads).remove)
        self._shared = [_find("shared", "a parameter", name, parameters, module) for name in self.shared]
        self._attachments = [self.criterion.attach(optimizer, module) for optimizer in module.trainer.optimizers]
        for attachment in self._attachments:
            self._undo.callback(attachment.remove)
        self._ready = True

    def _balance(self, module: LightningModule, outputs: Any) -> Any:
        """Returns what ``training_step`` returned with the weighted total for its loss."""
        if outputs is None:  # the module skips this batch
            return None
        if not isinstance(outputs, Mapping) or not isinstance(outputs.get("losses"), Mapping):
            got = f"a dict with {list(outputs)}" if isinstance(outputs, Mapping) else type(outputs).__name__
            losses = ", ".join(f"{term!r}: {term}_loss" for term in self.criterion.terms)
            raise ValueError(
                f"`training_step` of {type(module).__name__} must return its plain losses, got {got}: end it with\n"
                f"    losses = {{{losses}}}\n"
                '    return {"loss": sum(losses.values()), "losses": losses}'
            )
        total = self.criterion(outputs["losses"], module=module, shared=self._shared or None)
        if self._optimizer is not None:
            self._optimizer.observe_total(total)
        return {**apply_to_collection(dict(outputs), Tensor, Tensor.detach), "loss": total}


def _check_name(argument: str, kind: str, name: object) -> None:
    if not isinstance(name, str):
        example = "net.head" if kind == "module" else "net.trunk.weight"
        raise TypeError(f"`{argument}` must be the name of a {kind}, such as {example!r}, got {name!r}.")


def _wrap_training_step(
    module: LightningModule, before: Callable[[], None], after: Callable[[Any], Any], undo: ExitStack
) -> None:
    step = module.training_step

    @wraps(step)
    def training_step(*args: Any, **kwargs: Any) -> Any:
        before()
        return after(step(*args, **kwargs))

    own = vars(module)
    if "training_step" in own:  # the compiler's
        undo.callback(own.update, training_step=step)
    else:
        undo.callback(own.pop, "training_step")
    own["training_step"] = training_step


def _find(argument: str, kind: str, name: str, known: Mapping[str, Any], module: LightningModule) -> Any:
    if name not in known:
        owner = type(module).__name__
        raise ValueError(f"`{argument}` must name {kind} of {owner}, got {name!r}{did_you_mean(name, known)}.")
    return known[name]
