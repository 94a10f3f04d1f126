"""Diagnostics of a training, epoch by epoch: each fault by name, since when, how much, and the likely cure."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from torch.optim import Optimizer

from lossbalance.callbacks.epochs import Epochs
from lossbalance.callbacks.many_terms import MANY
from lossbalance.criterion.optimizer_check import find_faults
from lossbalance.criterion.step_warnings import describe_detached
from lossbalance.criterion.weighted_loss import WeightedLoss

_NEARLY_ALL = 0.95  # of the gradient
_HARDLY_ANY = 0.01  # of the gradient
_OF_EQUAL = 0.1  # of an equal share, where terms are many
_MOST = 3  # of a kind that are named, where terms are many
_FAR = 1e3  # from the weight that the term had in the first epoch
_UNMOVED = 1e-6  # relative change of the loss from the first epoch to the second
_NOTHING = 1e-4  # of the gradient, for a penalty
_STANDS, _GROWS = 5e-3, 0.05  # relative changes from epoch to epoch
_OPPOSED = -0.1  # mean cosine
_MINIMUM = 0.01  # of the other loss of a pair: a loss that is at its trivial minimum
_RISES = 0.05  # relative change in validation since its best


def diagnose(epochs: Epochs) -> Iterator[tuple[str, str]]:
    """Yields a key for each fault of the last epoch, and its message."""
    connected = [term for term in epochs.terms if term not in epochs.detached]
    checks: list[tuple[Iterable[str], Sequence[Callable[[Epochs, str], str | None]]]] = [
        (connected, (_not_finite, _unseen, _dominant, _starved, _collapsed, _run_away, _unmoved, _stuck, _overfit)),
        (epochs.penalties, (_useless, _overwhelming)),
        (epochs.pairs, (_conflicting, _prior)),
    ]
    for names, functions in checks:
        yield from _check_all(epochs, names, functions)


def _check_all(
    epochs: Epochs, names: Iterable[str], checks: Sequence[Callable[[Epochs, str], str | None]]
) -> Iterator[tuple[str, str]]:
    """Yields the faults that the checks find, of many terms the first few of each kind."""
    found = Counter[str]()
    for name in names:
        for check in checks:
            message = check(epochs, name)
            if message is None:
                continue
            found[check.__name__] += 1
            if len(epochs.terms) <= MANY or found[check.__name__] <= _MOST:
                yield f"{check.__name__} {name}", message
    for kind, count in found.items():
        if len(epochs.terms) > MANY and count > _MOST:
            yield (
                f"{kind} of others",
                f"{kind[1:].replace('_', ' ').capitalize()}: {count - _MOST} further ones, not listed.",
            )


def diagnose_detached(epochs: Epochs) -> list[str]:
    """Returns a message for each loss that had no gradient; the criterion has warned of it."""
    return [describe_detached(term) for term in epochs.terms if term in epochs.detached]


def diagnose_scheme(criterion: WeightedLoss) -> Iterator[tuple[str, str]]:
    """Yields the scheme's own warnings: weights at their bound, limits out of reach."""
    check = getattr(criterion.weighting, "check", None)
    if check is None:
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check()
    for warning in caught:
        message = str(warning.message)
        yield message.partition(",")[0], message


def diagnose_parameters(criterion: WeightedLoss, optimizers: Sequence[Optimizer]) -> Iterator[tuple[str, str]]:
    """Yields each parameter of the scheme that is in no optimizer, in several groups, or under weight decay."""
    criterion.step_warnings.ignore_updates()
    yield from find_faults(criterion.weighting, criterion.terms, optimizers)


def _not_finite(epochs: Epochs, term: str) -> str | None:
    part = epochs.mean("not_finite", term)
    if not part > 0:
        return None
    return (
        f"The loss of {term!r} was not finite in {part:.2%} of an epoch, which the means leave out: look for a "
        "division by 0, a logarithm of 0, or a learning rate that is too high."
    )


def _unseen(epochs: Epochs, term: str) -> str | None:
    if not epochs.unseen(term):
        return None
    return (
        f"The probe of {term!r} never fired in a whole epoch, so its share of the gradient is not known: use what "
        f"`criterion.probe({term!r}, h)` returns for the term's own branch, or probe the module in which that begins."
    )


def _dominant(epochs: Epochs, term: str) -> str | None:
    since = epochs.since(lambda i: _dominates(epochs, term, i))
    if since is None:
        return None
    return (
        f"{term!r} takes {epochs.mean('gradient_share', term):.1%} of the gradient since epoch {since} and dominates "
        "the other terms: balance them by GradBalance or GradNorm (`loss=gradbalance`, `loss=gradnorm`), or lower the "
        f"weight of {term!r}."
    )


def _starved(epochs: Epochs, term: str) -> str | None:
    least = min(_HARDLY_ANY, _OF_EQUAL / len(epochs.terms))

    def is_starved(i: int) -> bool:
        alone = epochs.largest_share(i) > _NEARLY_ALL  # reported as that term's fault
        return not alone and epochs.compares(i) and 0 < epochs.mean("gradient_share", term, i) < least

    since = epochs.since(is_starved)
    if since is None:
        return None
    shown = epochs.terms if len(epochs.terms) <= MANY else [term, "..."]
    ratios = ", ".join("..." if name == "..." else f"{name}: {4 if name == term else 1}" for name in shown)
    return (
        f"{term!r} has had {epochs.mean('gradient_share', term):.2%} of the gradient since epoch {since}: "
        f"try InverseLoss (`loss=inverse_loss`), or GradBalance with ratios (`loss=gradbalance` "
        f"'loss.ratios={{{ratios}}}')."
    )


def _dominates(epochs: Epochs, term: str, epoch: int) -> bool:
    return epochs.compares(epoch) and epochs.mean("gradient_share", term, epoch) > _NEARLY_ALL


def _collapsed(epochs: Epochs, term: str) -> str | None:
    first = epochs.mean("weight", term, 0)
    since = epochs.since(
        lambda i: epochs.weighs(term, i) and abs(epochs.mean("weight", term, i)) < abs(first) / _FAR, 1
    )
    if since is None:
        return None
    return (
        f"The weight of {term!r} has collapsed from {first:.3g} to {epochs.mean('weight', term):.3g}, below a "
        f"thousandth since epoch {since}, which hardly trains the term any more: hold it by Fixed (`loss=fixed`), or "
        "by GradBalance and its ratios (`loss=gradbalance`)."
    )


def _run_away(epochs: Epochs, term: str) -> str | None:
    def grew(quantity: str, factor: float, i: int) -> bool:
        return abs(epochs.mean(quantity, term, i)) > factor * abs(epochs.mean(quantity, term, 0))

    since = epochs.since(
        lambda i: epochs.weighs(term, 0) and grew("weight", _FAR, i) and grew("contribution", 10, i), 1
    )
    if since is None:
        return None
    first, last = epochs.mean("weight", term, 0), epochs.mean("weight", term)
    return (
        f"The weight of {term!r} runs away: from {first:.3g} to {last:.3g}, above a thousand times the first since "
        f"epoch {since}, and its loss does not fall as fast: lower the scheme's learning rate (`loss.lr=`), or hold "
        "the weight by Fixed (`loss=fixed`)."
    )


def _unmoved(epochs: Epochs, term: str) -> str | None:
    if len(epochs.history) < 2 or not epochs.weighs(term):
        return None
    first, last = epochs.mean("loss", term, 0), epochs.mean("loss", term)
    if not all(
        abs(epochs.mean("loss", term, epoch) - first) <= _UNMOVED * abs(first) for epoch in range(1, epochs.last + 1)
    ):
        return None
    return (
        f"The loss of {term!r} never moved: it is {last:.6g} in the last epoch as in the first. Is it detached "
        "from the network, or are the parameters that it depends on frozen or missing from the optimizer?"
    )


def _stuck(epochs: Epochs, term: str) -> str | None:
    def is_stuck(i: int) -> bool:
        if i < 1 or not epochs.weighs(term, i):
            return False
        fallen = epochs.mean("loss", term, i) < (1 - _STANDS) * epochs.mean("loss", term, i - 1)
        return not fallen and epochs.mean("weight", term, i) > (1 + _GROWS) * epochs.mean("weight", term, i - 1)

    since = epochs.since(is_stuck, patience=4)
    if since is None or _unmoved(epochs, term) is not None:
        return None
    return (
        f"The loss of {term!r} has stopped falling since epoch {since}, at {epochs.mean('loss', term):.4g}, while its "
        f"weight grows, to {epochs.mean('weight', term):.4g}: that takes from the other terms and gains nothing. "
        "Hold the weight by Fixed (`loss=fixed`), or give the term more of the network (`task.width=`)."
    )


def _overfit(epochs: Epochs, term: str) -> str | None:
    losses = [(epochs.validated(term, i), i) for i in range(len(epochs.history))]
    best, index = min(((loss, i) for loss, i in losses if loss == loss), default=(0.0, epochs.last))
    falls = epochs.mean("loss", term) < (1 - _RISES) * epochs.mean("loss", term, index)
    rises = epochs.validated(term, epochs.last) > best + _RISES * abs(best)
    if epochs.last - index < 3 or not (falls and rises):
        return None
    since = int(epochs.history[index]["epoch"])
    return (
        f"The loss of {term!r} falls in training and rises in validation since epoch {since}, there from {best:.4g} to "
        f"{epochs.validated(term, epochs.last):.4g}: stop at the best epoch (`callbacks=early_stopping`), penalize "
        "the weights (`penalty=l2`), or lower the weight of the term."
    )


def _useless(epochs: Epochs, name: str) -> str | None:
    since = epochs.since(lambda i: 0 < epochs.mean("gradient_share", name, i) < _NOTHING)
    if since is None:
        return None
    return (
        f"The penalty {name!r} does nothing: it has had {epochs.mean('gradient_share', name):.2g} of the gradient over "
        f"its weights since epoch {since}: raise its strength (`penalty.strength`), or set its share of the gradient "
        "(`penalty.share=0.05`)."
    )


def _overwhelming(epochs: Epochs, name: str) -> str | None:
    since = epochs.since(lambda i: epochs.mean("gradient_share", name, i) > _NEARLY_ALL)
    if since is None:
        return None
    return (
        f"The penalty {name!r} does everything: it has had {epochs.mean('gradient_share', name):.1%} of the gradient "
        f"over its weights since epoch {since}: lower its strength (`penalty.strength`), or set "
        "its share of the gradient (`penalty.share=0.05`)."
    )


def _conflicting(epochs: Epochs, name: str) -> str | None:
    since = epochs.since(lambda i: epochs.mean("conflict", name, i) > 0.5 and epochs.mean("cosine", name, i) < _OPPOSED)
    if since is None:
        return None
    return (
        f"{' and '.join(map(repr, epochs.pairs[name]))} point against each other in "
        f"{epochs.mean('conflict', name):.0%} of the steps since epoch {since}, at a mean cosine of "
        f"{epochs.mean('cosine', name):.2f}: combine them by MGDA or IMTLG "
        "(`conflict=mgda`, `conflict=imtlg`), or try a wider trunk (`task.width=`)."
    )


def _prior(epochs: Epochs, name: str) -> str | None:
    """Returns a message for two terms that always oppose each other while one is at its trivial minimum."""

    def is_opposed(i: int) -> bool:
        return epochs.mean("conflict", name, i) > _NEARLY_ALL and smallest(i)[0] < _MINIMUM * smallest(i)[1]

    def smallest(i: int) -> list[float]:
        return sorted(abs(epochs.mean("loss", term, i)) for term in epochs.pairs[name])

    since = epochs.since(is_opposed)
    if since is None:
        return None
    prior, task = sorted(epochs.pairs[name], key=lambda term: abs(epochs.mean("loss", term)))
    return (
        f"{prior!r} points against {task!r} in {epochs.mean('conflict', name):.0%} of the steps since epoch {since}, "
        f"and stays at its minimum, {epochs.mean('loss', prior):.3g}: is it a prior (a KL, an entropy bonus, a router's"
        f" loss)? Give it a weight of its own beside the scheme: `WeightedLoss(..., fixed={{{prior!r}: ...}})` "
        f"(`fixed.{prior}=`)."
    )
