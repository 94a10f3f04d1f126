r"""Branch node: gathers the gradients of all terms at a shared activation and combines them.

A branch is the identity with one output for each term. Its backward pass starts when the gradients of all terms have
arrived, :math:`g_1, \dots, g_K`, so it can hand on any combination of them:

1. It computes the matrix of their inner products :math:`G_{ij} = g_i \cdot g_j`. The norms go where those of probes do.
2. It averages the matrix over ranks, by one collective. Every rank takes part, also one that lacks terms, for each
   total is connected to its branches by an *anchor*, an output that is always 0.
3. An aggregator makes multipliers :math:`m` of it, and :math:`\sum_i m_i g_i` is handed on.
4. The matrix is left behind as the gradient of a leaf, for cosines: so it is in a compiled graph, too.

Only the backward pass of the total is combined; the anchor identifies it. A derivative on the way to a loss, one
that is differentiated in its turn, and the norms ahead of the first step get the plain sum.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lossbalance._utils.distributed import Ranks
from lossbalance.gradients.data_parallel import walk
from lossbalance.gradients.inputs import check_parameters, trained_parameters
from lossbalance.gradients.measurement import Measurement
from lossbalance.gradients.probes import Probes
from lossbalance.gradients.products import Gradients, add_up, combine, flatten, multiply
from lossbalance.gradients.traced import spread

Aggregate = Callable[[Tensor], Tensor]
"""Makes multipliers ``[terms]`` of the inner products ``[terms, terms]``."""


class Branches:
    """The branches of one step, and the inner products that its backward pass leaves behind.

    Args:
        probes: Measure the norms.
    """

    def __init__(self, probes: Probes) -> None:
        self.probes = probes
        self.remembered: tuple[Tensor, Mapping[str, Tensor]] | None = None
        """An activation, and what it was split into in the open step."""
        self.has_closed = False
        """Whether the last step had a branch."""
        self._anchors: list[Tensor] = []  # of the open step
        self._usual = 0  # how many the last step had
        self._aliases: dict[int, list[dict[str, Tensor]]] = {}  # of the open step, by module and term

    @property
    def splits(self) -> bool:
        """Whether there are gradients to be combined."""
        return self.probes.training and torch.is_grad_enabled()

    @property
    def has_opened(self) -> bool:
        """Whether the open step has a branch."""
        return len(self._anchors) > 0

    def split(self, h: Tensor, aggregate: Aggregate | None) -> dict[str, Tensor]:
        """Returns ``h`` for each term, and combines what comes back; None for ``aggregate`` is the plain sum."""
        if not isinstance(h, Tensor) or not h.is_floating_point():
            got = h.dtype if isinstance(h, Tensor) else type(h).__name__
            raise TypeError(f"`h` must be an activation in floating point, got {got}: branch what enters the heads.")
        if hasattr(h, "full_tensor"):
            raise TypeError("`h` must be an ordinary tensor to be branched, got a DTensor: branch `h.full_tensor()`.")
        if not self.splits:
            return dict.fromkeys(self.probes.terms, h)
        parts = self._apply([h], aggregate)
        return {term: part for term, (part,) in zip(self.probes.terms, parts, strict=True)}

    def split_parameters(self, module: nn.Module, aggregate: Aggregate | None) -> dict[str, Callable[..., Any]]:
        """Returns, for each term, what runs ``module`` with its parameters as the term sees them in the open step."""
        check_parameters(module)
        return {term: partial(self._run, i, module, aggregate) for i, term in enumerate(self.probes.terms)}

    def require(self, aggregator: object) -> None:
        """Checks that the open step has a branch.

        Raises:
            ValueError: If it has none.
        """
        if not self.has_opened:
            raise ValueError(
                f"{type(aggregator).__name__} combines gradients where the terms part, and found no branch: call "
                "`criterion.branch` there in each step, or once `criterion.branch_output`, or "
                "`criterion.branch_parameters` for terms with forward passes of their own. Under an activation "
                "checkpoint use `use_reentrant=False`."
            )

    def close(self, total: Tensor) -> Tensor:
        """Ends the open step: returns its total, connected to its branches, and clears the matrix of the last one."""
        if len(self._anchors) > max(self._usual, 1) and not torch.compiler.is_compiling():
            self._drop_unused(total)
        self._usual, self.has_closed = len(self._anchors), self.has_opened
        for anchor in self._anchors:
            total = total + anchor
        self._anchors.clear()
        self._aliases.clear()
        self.forget()
        if self.has_closed:
            self.probes.leaves.products.grad = None
        return total

    def remember(self, h: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Notes what ``h`` was split into, until the step is closed or :meth:`forget` is called."""
        if self.has_opened and not _runs_again():
            self.remembered = h, parts

    def forget(self) -> None:
        """Forgets what was split last."""
        self.remembered = None

    def products(self) -> Tensor:
        """Returns the inner products of the weighted gradients ``[terms, terms]`` in the last backward pass, or nan."""
        leaf = self.probes.leaves.products
        return torch.full_like(leaf, torch.nan) if leaf.grad is None else leaf.grad

    def _drop_unused(self, total: Tensor) -> None:
        """Drops the anchors of forward passes that did not come to a total, unless this one has no branch at all."""
        nodes = set(walk([total.grad_fn]))
        used = [anchor for anchor in self._anchors if anchor.grad_fn in nodes]
        self._anchors = used or self._anchors[-max(self._usual, 1) :]

    def _run(self, index: int, module: nn.Module, aggregate: Aggregate | None, *args: Any, **kwargs: Any) -> Any:
        if not self.splits:
            return module(*args, **kwargs)
        aliases = self._aliases.get(id(module))
        if aliases is None:
            parameters = trained_parameters(module)
            parts = self._apply(list(parameters.values()), aggregate)
            aliases = self._aliases[id(module)] = [dict(zip(parameters, part, strict=True)) for part in parts]
        return torch.func.functional_call(module, aliases[index], args, kwargs)

    def _apply(self, tensors: list[Tensor], aggregate: Aggregate | None) -> list[tuple[Tensor, ...]]:
        """Returns the tensors once for each term."""
        probes, size = self.probes, len(tensors)
        for tensor in tensors:
            probes.register(probes.terms, tensor)
        leaves, compiling = probes.leaves, torch.compiler.is_compiling()
        column = probes.open.column(range(len(probes.terms)), probes.magnitudes) if compiling else 0
        *parts, anchor = _Branch.apply(
            leaves.products, leaves.sizes, probes.open, aggregate, probes.magnitudes, column, probes.ranks, *tensors
        )
        if not _runs_again():
            self._anchors.append(anchor)
        return [tuple(parts[i : i + size]) for i in range(0, len(parts), size)]

    def __getstate__(self) -> dict[str, Any]:
        # A copy has a step of its own.
        return vars(Branches(self.probes))


def _runs_again() -> bool:
    """Returns whether this is what a checkpoint runs again, within a backward pass."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class _Branch(torch.autograd.Function):
    """The identity on the tensors, once for each term; the gradients of the leaves are what is measured."""

    @staticmethod
    def forward(
        ctx: Any,
        products: Tensor,
        sizes: Tensor,
        step: Measurement,
        aggregate: Aggregate | None,
        magnitudes: bool,
        column: int,
        ranks: Ranks,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.step, ctx.aggregate, ctx.leaf = step, aggregate, sizes
        ctx.magnitudes, ctx.column, ctx.ranks = magnitudes, column, ranks
        ctx.shapes, ctx.dtypes = [x.shape for x in tensors], [x.dtype for x in tensors]
        # The compiler rebuilds a view that leaves its graph from the base, and would lose the node.
        compiling = torch.compiler.is_compiling()
        parts = [x.clone() if compiling else x.view_as(x) for _ in range(len(products)) for x in tensors]
        return *parts, products.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *parts, anchor = gradients
        size = len(ctx.shapes)
        by_term = [parts[i : i + size] for i in range(0, len(parts), size)]
        if not torch.compiler.is_compiling() and (anchor is None or torch.is_grad_enabled()):
            return *(None,) * 7, *_hand_on(ctx, by_term)
        rows = flatten(by_term, ctx.shapes, ctx.leaf)
        products = multiply(rows)
        sizes = _report(ctx, by_term, products.diagonal(), rows)
        if ctx.ranks.size > 1:
            products = ctx.ranks.sum(products) / ctx.ranks.size
        if ctx.aggregate is None:
            return products, sizes, *(None,) * 5, *add_up(by_term)
        return products, sizes, *(None,) * 5, *combine(ctx.aggregate(products), rows, ctx.shapes, ctx.dtypes)


def _hand_on(ctx: Any, by_term: Gradients) -> list[Tensor | None]:
    """Returns the plain sums, and lets each gradient be measured as a probe does."""
    received = [
        [None if gradient is None else ctx.step.receive(index, gradient, ctx.leaf) for gradient in gradients]
        for index, gradients in enumerate(by_term)
    ]
    return add_up(received)


def _report(ctx: Any, by_term: Gradients, squares: Tensor, rows: Tensor) -> Tensor | None:
    """Takes norms and magnitudes to the step; in a compiled graph they are returned, for the gradient of the leaf."""
    magnitudes = (rows.abs().amax(dim=1), rows.abs().sum(dim=1)) if ctx.magnitudes else ()
    if torch.compiler.is_compiling():
        largest, sums = magnitudes or (torch.zeros_like(squares),) * 2
        return spread(squares, largest, sums, ctx.column)
    running = ctx.step.running
    if running is not None:
        columns = [sizes.unbind() for sizes in (squares.sqrt(), *magnitudes)]
        for index, sizes in enumerate(zip(*columns, strict=True)):
            if any(gradient is not None for gradient in by_term[index]):
                running.add_measured(index, sizes)
    return None
