"""Several named losses in, one scalar out, and a record of what each weighed."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbalance._utils.checks import check_not_negative
from lossbalance.breakdown import Breakdown, Step, tabulate
from lossbalance.conflict.base import Aggregator
from lossbalance.gradients.branch import Branches, cosines
from lossbalance.gradients.branch_output import BranchHandle
from lossbalance.gradients.inputs import ProbedModule, ProbeHandle
from lossbalance.gradients.probes import Probes
from lossbalance.gradients.sources import Look, Losses, NoNorms, NormSource, ProbeNorms, SharedNorms
from lossbalance.losses import LossReader
from lossbalance.penalties.attachment import Attachment
from lossbalance.penalties.base import Penalty
from lossbalance.penalties.report import PenaltyReport, report
from lossbalance.scale import LossSum, check_sum
from lossbalance.state import bring_in_order, describe
from lossbalance.weighting.base import Weighting


class WeightedLoss(nn.Module):
    """Combines the losses of a step into one scalar, by a weighting scheme, and adds penalties.

    Args:
        weighting: The scheme, made from the names of the terms.
        penalties: Regularizers on parameters by name; they need ``module`` in the call.
        weight_sum: If given, the weights are rescaled to add up to it, so that schemes compare at the same
            learning rate. Penalties are not rescaled.
        loss_sum: If given, the weights are rescaled so that the weighted losses, averaged over steps, add up to it: as
            the losses fall, the weights grow. This alone gained up to 27 % over the best fixed weights on tables, a
            learning rate in disguise; so give it to all schemes that are compared, or to none.
        conflict: What the gradients of the terms are combined by at the branch; None is the plain sum.

    Raises:
        TypeError: If ``weighting`` is not a scheme, a penalty not a penalty, or a sum not a number.
        ValueError: If a sum is not positive and finite, or both are given, or a penalty has the name of a term.

    Example:
        >>> from lossbalance.weighting import Alpha
        >>> criterion = WeightedLoss(Alpha(["aux", "main"], alpha=0.25))
        >>> criterion({"aux": torch.tensor(2.0), "main": torch.tensor(4.0)}).item()
        3.5
        >>> {term: contribution.item() for term, contribution in criterion.last.contributions.items()}
        {'aux': 0.5, 'main': 3.0}
    """

    def __init__(
        self,
        weighting: Weighting,
        penalties: Mapping[str, Penalty] | None = None,
        weight_sum: float | None = None,
        loss_sum: float | None = None,
        conflict: Aggregator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(weighting, Weighting):
            raise TypeError(f"`weighting` must be a scheme such as Equal(['aux', 'main']), got {weighting!r}.")
        self.terms = weighting.terms
        """Names of the losses, in the order of the row."""
        self.weighting = weighting
        self.penalties = nn.ModuleDict(_check_penalties(penalties, weighting.terms))
        self.weight_sum, self.loss_sum = check_sum("weight_sum", weight_sum), check_sum("loss_sum", loss_sum)
        if self.weight_sum is not None and self.loss_sum is not None:
            raise ValueError("`weight_sum` and `loss_sum` are two scales for the same weights: give one of them.")
        self.scale = None if self.loss_sum is None else LossSum(self.loss_sum, len(self.terms))
        if not isinstance(conflict, Aggregator | None):
            raise TypeError(f"`conflict` must be an aggregator such as PCGrad() or None, got {conflict!r}.")
        self.conflict = conflict
        self.probes = Probes(weighting.terms)
        self.branches = Branches(self.probes)
        self._reader = LossReader(weighting.terms)
        self._frozen = 0  # how many times over
        self._last: Step | None = None

    def forward(
        self,
        losses: Mapping[str, Tensor | None],
        module: nn.Module | None = None,
        shared: Tensor | Iterable[Tensor] | None = None,
    ) -> Tensor:
        """Returns the total of one step; call ``backward()`` on it.

        Args:
            losses: Each term's loss by name, a scalar in floating point; None for a term that this batch lacks.
            module: What the penalties are computed on.
            shared: Activations or parameters with respect to which a gradient scheme takes its norms in this very step,
                by ``torch.autograd.grad``: one partial backward pass per term, on top of the ordinary one. For terms
                that pass no common activation; where they do, probes cost nothing. Other schemes ignore it.

        Returns:
            The total ``[]``, in fp32 or wider.

        Raises:
            TypeError: If a loss is not a tensor in floating point.
            ValueError: If a term is missing or unknown, a loss is not a scalar or on another device than the rest,
                ``module`` is missing, or a gradient scheme has nothing to take norms from.
        """
        given = self._reader.read(losses, self.probes.device)
        look = self._look(given, shared)
        row = given.row
        if self.training and self.probes.probed:
            row = self.probes.begin_step(row, None if look is None else look.commit_unless)
        total, weights = self._rescale(*self.weighting.weigh(row, given.present))
        penalties = self._penalize(total, module)
        for penalty in penalties.values():
            total = total + penalty
        if self.training:
            total = self._close_branches(total)
        norms = None if look is None or look.norms is None else weights * look.norms
        detached = {name: penalty.detach() for name, penalty in penalties.items()}
        self._last = Step(total.detach(), given.row.detach(), weights, given.present, detached, norms)
        return total

    def probe(self, term: str, x: Tensor) -> Tensor:
        """Marks ``x`` as the activation at which the gradient of ``term`` is measured.

        Put it where the term's own branch begins, and use what it returns for that branch alone::

            h = trunk(x)
            aux = aux_head(criterion.probe("aux", h))
            main = main_head(criterion.probe("main", h))

        It is the identity, costs one norm in the backward pass of the total, the one in which it measures, and does
        nothing in ``eval()``. Several probes of one term add up in squares. What it returns must not be changed in
        place, as ``nn.ReLU(inplace=True)`` would do at the start of a branch. A loss on derivatives of what was probed
        needs :meth:`probe_parameters`.

        Args:
            term: The name of the term.
            x: The activation, of any shape.

        Returns:
            ``x``, to be used in its place.

        Raises:
            TypeError: If ``x`` is not in floating point.
            ValueError: If the term is unknown or ``x`` on another device than the criterion.
        """
        return self.probes.attach_probe(term, x)

    def probe_inputs(self, modules: Mapping[str, nn.Module]) -> ProbeHandle:
        """Places a probe before each module, for models that are not to be edited.

        It probes every tensor that enters the module and requires a gradient, also in mappings, sequences and
        dataclasses.

        Args:
            modules: The module in which each term's own branch begins, such as its head, by term.

        Returns:
            A handle whose ``remove()`` takes the probes away.

        Raises:
            TypeError: If it is not a mapping to modules.
            ValueError: If a term is unknown, or a module begins with a layer that works in place.
        """
        return ProbeHandle(modules, self.probes)

    def probe_parameters(self, term: str, module: nn.Module) -> ProbedModule:
        """Returns a callable that runs ``module`` with its parameters seen through probes of ``term``.

        For terms with forward passes of their own, also where a loss is made of derivatives, as in a network that
        solves a differential equation::

            residual_net, boundary_net = (criterion.probe_parameters(term, net) for term in ("residual", "boundary"))
            u = residual_net(x)
            (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
            total = criterion({"residual": (du - f).square().mean(), "boundary": boundary_net(x0).square().mean()})

        What is measured is the whole gradient of the term by the parameters, in the one ordinary backward pass. Make
        the callable once; call it as often as the term needs. In ``eval()`` and without gradients it is the module.

        Args:
            term: The name of the term.
            module: What the term's loss is computed with; may be the same for all terms.

        Raises:
            TypeError: If it is not a module, or one of ``fully_shard``, whose parameters are in parts.
            ValueError: If the term is unknown, or no parameter requires a gradient.
        """
        return ProbedModule(module, term, self.probes)

    def branch(self, h: Tensor) -> dict[str, Tensor]:
        """Returns ``h`` for each term: where ``conflict`` combines their gradients, in the one backward pass.

        Put it where the terms part, and give each term's own branch its own::

            h = criterion.branch(trunk(x))
            losses = {"aux": aux_loss(aux_head(h["aux"])), "main": main_loss(head(h["main"]))}

        The layers before it get what the aggregator makes of the weighted gradients; those behind it, the heads, keep
        their own. It is a probe of each term, too, and ``last.cosines`` has the cosines between the gradients, also
        without an aggregator. What it returns must not be changed in place. Under an activation checkpoint use
        ``use_reentrant=False``. In ``eval()`` and without gradients it is the identity.

        Args:
            h: The activation, of any shape.

        Raises:
            TypeError: If ``h`` is not in floating point.
            ValueError: If ``h`` is on another device than the criterion.
        """
        return self.branches.split(h, self.conflict)

    def branch_output(self, module: nn.Module, heads: Mapping[str, nn.Module]) -> BranchHandle:
        """Lets what enters the heads pass :meth:`branch`, for models that are not to be edited.

        Args:
            module: What all terms share, such as the trunk: after each of its calls the heads are entered by one
                tensor, its output or what is computed of it.
            heads: The module in which each term's own branch begins, by term.

        Returns:
            A handle whose ``remove()`` takes the branch away.

        Raises:
            ValueError: If a term is unknown; in a step, if different tensors enter the heads.
        """
        return BranchHandle(module, heads, self.branch, self.branches)

    def branch_parameters(self, module: nn.Module) -> dict[str, Callable[..., Any]]:
        """Returns, for each term, a callable that runs ``module``: the branch is at its parameters.

        For terms with forward passes of their own, also where a loss is made of derivatives::

            net = criterion.branch_parameters(network)
            losses = {"residual": residual(net["residual"], x), "boundary": net["boundary"](x0).square().mean()}

        Each parameter gets what the aggregator makes of the terms' gradients over all parameters. Make the callables
        once, call them as often as a term needs.

        Raises:
            TypeError: If it is not a module, or one of ``fully_shard``, whose parameters are in parts.
            ValueError: If no parameter requires a gradient.
        """
        return self.branches.split_parameters(module, self.conflict)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Lets the scheme observe nothing: within it the weights stay as they are, for steps that are only tried out.

        ::

            with criterion.frozen():
                total = criterion(losses)
        """
        self._frozen += 1
        try:
            yield
        finally:
            self._frozen -= 1

    def parameter_groups(self, lr: float | None = None) -> list[dict[str, Any]]:
        """Returns what the optimizer must hold of a scheme that learns its weights; nothing for the others.

        ::

            groups = [{"params": net.parameters()}, *criterion.parameter_groups()]
            optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)

        Weight decay is off in the group, for it would pull every weight to where the scheme's parameters are 0.

        Args:
            lr: The group's own learning rate; None for the scheme's, or else that of the optimizer.

        Raises:
            TypeError: If ``lr`` is not a number.
            ValueError: If it is negative, or not finite.
        """
        if lr is not None:
            check_not_negative("lr", lr)
        parameters = list(self.parameters())
        if not parameters:
            return []
        lr = self.weighting.learning_rate if lr is None else lr
        return [{"params": parameters, "weight_decay": 0.0} | ({} if lr is None else {"lr": lr})]

    def attach(self, optimizer: Optimizer, module: nn.Module) -> Attachment:
        """Lets each step of the optimizer apply the penalties in mode ``"gradient"`` or ``"decoupled"`` to ``module``.

        Where a step evaluates a closure several times, as that of L-BFGS does, only the first evaluation is observed by
        the scheme: a line search compares values under the same weights. Call it once, when the optimizer is made;
        there is nothing else to do, also with closures, accumulated batches and gradient scalers. See
        :class:`~lossbalance.penalties.attachment.Attachment` for what happens when.

        Raises:
            ValueError: If it was called for this optimizer before, or the optimizer holds none of the weights.
        """
        return Attachment(self._penalties().values(), optimizer, module, self.frozen)

    def report_penalties(self) -> dict[str, PenaltyReport]:
        """Returns what each penalty weighs, in value and in gradient; see :func:`lossbalance.penalties.report.report`.

        Call it after ``backward()`` and before the optimizer's step, in steps that are logged.
        """
        return report(self._penalties(), torch.stack(list(self.last.contributions.values())))

    def synchronize(self) -> None:
        """Brings what the last backward pass measured together over ranks, ahead of the next step.

        Call it on every rank before one of them saves ``state_dict()``, after ``backward()``; the callbacks do. On a
        single process it is never needed.
        """
        if self.weighting.uses_gradients:
            self.probes.all_reduce(torch.zeros((), dtype=torch.bool, device=self.probes.device))

    @property
    def last(self) -> Breakdown:
        """What made up the last total.

        Raises:
            RuntimeError: Before the first call.
        """
        step = self.last_step()
        if step is None:
            raise RuntimeError("`last` describes the last call, and there was none: call the criterion first.")
        losses, weights, contributions, shares = map(self._by_name, tabulate([step])[0])
        return Breakdown(
            total=step.total,
            losses=losses,
            weights=weights,
            contributions=contributions,
            gradient_shares={} if step.norms is None else shares,
            cosines={} if step.products is None else cosines(step.products, self.terms),
            penalties_in_total=step.penalties,
            applied_by_optimizers={
                name: penalty for name, penalty in self._penalties().items() if name not in step.penalties
            },
        )

    def last_step(self) -> Step | None:
        """Returns the last call in the form that costs least, for statistics over many; None before the first."""
        last = self._last
        if last is None:
            return None
        if self.branches.has_closed:
            last = last._replace(products=self.branches.products())
        if last.norms is None and self.probes.probed:
            last = last._replace(norms=self.probes.norms())
        return last

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights of the last call, detached; before the first, those that losses of 1 would get."""
        if self._last is not None:
            return self._by_name(self._last.weights)
        ones = torch.ones(len(self.terms), device=self.probes.device)
        _, weights = self.weighting.weigh(ones, ones > 0)
        return self._by_name(weights.detach())

    def extra_repr(self) -> str:
        """The settings."""
        return "" if self.weight_sum is None else f"weight_sum={self.weight_sum:g}"

    def get_extra_state(self) -> Tensor:
        """The names of the scheme and its terms."""
        return describe(self.weighting)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing is left to do: the state has been brought in order."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}_extra_state" in state_dict:
            bring_in_order(state_dict, prefix, self.weighting)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def _observe(self, source: NormSource, losses: Losses) -> Look:
        look = source.look(losses)
        self.weighting.observe(look.observation)
        if self.scale is not None:
            self.scale.observe(look.observation)
        return look

    def _look(self, losses: Losses, shared: Tensor | Iterable[Tensor] | None) -> Look | None:
        """Shows the scheme the step, in training; returns what was found for it, or None."""
        if not self.training or self._frozen or not (self.weighting.observes or self.scale is not None):
            return None
        if not self.weighting.uses_gradients:
            return self._observe(NoNorms(), losses)
        scheme = type(self.weighting).__name__
        if not torch.is_grad_enabled():
            if self.probes.known.issuperset(losses.names):
                return None
            raise ValueError(
                f"{scheme} needs gradients in its first step, and gradients are switched off: call the criterion "
                "outside of `torch.no_grad()`, or switch it to evaluation by `criterion.eval()`."
            )
        self.probes.magnitudes = self.weighting.uses_magnitudes
        source = ProbeNorms(self.probes, scheme) if shared is None else SharedNorms(shared, self.probes)
        return self._observe(source, losses)

    def _rescale(self, total: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the total and the weights that the scheme gives, multiplied by what is to come on top of it."""
        if self.weight_sum is not None:
            factor = self.weight_sum / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
            total, weights = total * factor, weights * factor
        if self.scale is not None:
            factor = self.scale(self.weighting).to(weights.dtype)
            total, weights = total * factor, weights * factor
        return total, weights

    def _close_branches(self, total: Tensor) -> Tensor:
        """Returns the total, connected to the branches of the step."""
        if self.conflict is not None and not self.branches.has_opened and total.requires_grad:
            name = type(self.conflict).__name__
            raise ValueError(
                f"{name} combines gradients where the terms part, and found no branch: call `criterion.branch` there "
                "in each step, or once `criterion.branch_output`, or `criterion.branch_parameters` for terms with "
                "forward passes of their own. Under an activation checkpoint use `use_reentrant=False`."
            )
        return self.branches.close(total)

    def _penalize(self, total: Tensor, module: nn.Module | None) -> dict[str, Tensor]:
        """Returns the penalties that belong to the total."""
        values = {}
        for name, penalty in self._penalties().items():
            if penalty.mode != "loss":
                self._leave_to_the_optimizer(name, penalty, module)
                continue
            if module is None:
                raise ValueError(f"`module` must be given for the penalty {name!r}, got None.")
            if self.training and total.requires_grad:
                penalty.update_share(total, module)
            values[name] = penalty(module)
        return values

    def _leave_to_the_optimizer(self, name: str, penalty: Penalty, module: nn.Module | None) -> None:
        if torch.compiler.is_compiling():
            return
        if module is not None:
            penalty.remember_module(module)
        if self.training and self._last is not None and not penalty.is_applied:
            warnings.warn(
                f"nobody applies the penalty {name!r}, which is in mode {penalty.mode!r}: call "
                "`criterion.attach(optimizer, module)` once, when the optimizer is made.",
                stacklevel=5,
            )

    def _penalties(self) -> dict[str, Penalty]:
        return cast("dict[str, Penalty]", dict(self.penalties.items()))

    def _by_name(self, row: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.terms, row.unbind(), strict=True))


def _check_penalties(penalties: object, terms: tuple[str, ...]) -> dict[str, Penalty]:
    if penalties is None:
        return {}
    if not isinstance(penalties, Mapping):
        raise TypeError(f"`penalties` must map names to penalties, such as {{'l2': L2(1e-4)}}, got {penalties!r}.")
    for name, penalty in penalties.items():
        if not isinstance(penalty, Penalty):
            raise TypeError(f"`penalties[{name!r}]` must be a penalty such as L2(1e-4), got {penalty!r}.")
        if name in terms:
            raise ValueError(f"`penalties` must have names of their own, got {name!r}, which is a term.")
        if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict, name) or name == "training":
            raise ValueError(
                f"`penalties` must have names that can be keys of a module's state, got {name!r}: no dot, not empty, "
                "and no name of an attribute; such as 'l2_head'."
            )
    return dict(penalties)
