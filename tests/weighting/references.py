"""Every scheme once more, from its paper: float64, plain loops, one term at a time where the paper has it so.

Where a scheme of ours does something else than its paper, its reference says what and why.
"""

from collections.abc import Callable, Iterator

import numpy as np

Row = np.ndarray
Steps = list["Seen"]


class Seen:
    """What is seen of the terms in one step: losses, and norm, largest and mean magnitude of each gradient."""

    def __init__(self, losses: Row, gradients: Row) -> None:
        self.losses = losses
        self.norms = np.sqrt((gradients**2).sum(axis=1))
        self.largest, self.mean_magnitude = np.abs(gradients).max(axis=1), np.abs(gradients).mean(axis=1)


def softmax(x: Row) -> Row:
    e = np.exp(x - x.max())
    return e / e.sum()


def generator(state: int) -> Iterator[float]:
    """Numbers from -1 to 1, in fp32: schemes draw by a generator whose state is a tensor."""
    while True:
        state = (state * 3202034522624059733 + 2**63) % 2**64 - 2**63
        yield float(np.float32(state) * np.float32((1 - 2**-20) / 2**63))


def uncertainty(steps: Steps, lr: float) -> list[Row]:
    """Kendall et al. (2018), eq. 7, by gradient descent. Ours: starts at the optimum of the mean of five losses."""
    weights, s = [], np.zeros(3)
    for t, seen in enumerate(steps):
        if t < 5:
            s = np.log(np.mean([each.losses for each in steps[: t + 1]], axis=0))
        weights.append(np.exp(-s) / 2)
        if t >= 5:
            s = s - lr * (0.5 - 0.5 * np.exp(-s) * seen.losses)
    return weights


def uncertainty_softmax(steps: Steps, temperature: float) -> list[Row]:
    """Kirchdorfer et al. (2024), UW-SO."""
    return [softmax(1 / (seen.losses * temperature)) for seen in steps]


def uncertainty_softmax_scale_free(steps: Steps, temperature: float, decay: float) -> list[Row]:
    """Ours: the logarithm of the inverse of an average, so that the temperature has no unit."""
    weights, average = [], steps[0].losses
    for seen in steps:
        average = decay * average + (1 - decay) * seen.losses
        weights.append(softmax(-np.log(average) / temperature))
    return weights


def averages(rows: list[Row], decay: float) -> list[Row]:
    """Running averages, freed of the bias of their start."""
    total, fix, found = np.zeros(3), 0.0, []
    for row in rows:
        total, fix = total * decay + row, fix * decay + 1
        found.append(total / fix)
    return found


def gradnorm(steps: Steps, force: float, lr: float) -> list[Row]:
    """Chen et al. (2018), eq. 1 and 2.

    Ours: starts balanced, takes the mean of five losses for the first one, and steps on log w in units of the mean
    gradient: additive steps on w reach 0 and depend on the units of the losses.
    """
    weights, w = [], None
    for t, seen in enumerate(steps):
        first = np.mean([each.losses for each in steps[: min(t + 1, 5)]], axis=0)
        if w is None:
            w = 1 / seen.norms
        else:
            gradient = w * seen.norms
            rate = seen.losses / first
            target = gradient.mean() * (rate / rate.mean()) ** force
            slope = seen.norms * np.sign(gradient - target)  # of sum |G - target| by w
            w = w * np.exp(-lr * w * slope / gradient.mean())
        w = 3 * w / w.sum()
        weights.append(w)
    return weights


def gradbalance(steps: Steps, ratios: Row, decay: float) -> list[Row]:
    """Defossez et al. (2022), section 3.4, with a reference norm of 1."""
    return [ratios / ratios.sum() / average for average in averages([seen.norms for seen in steps], decay)]


def lr_annealing(steps: Steps, decay: float, statistic: str) -> list[Row]:
    """Wang et al. (2021), eq. 11 to 13, or the norms of 2023. Ours: starts at the first ratio, the paper at 1."""
    weights, w = [], None
    for seen in steps:
        ratio = seen.largest[0] / seen.mean_magnitude if statistic == "max_mean" else seen.norms[0] / seen.norms
        w = ratio if w is None else decay * w + (1 - decay) * ratio
        weights.append(np.concatenate([[1.0], w[1:]]))
    return weights


def ntk(steps: Steps, decay: float) -> list[Row]:
    """Wang et al. (2022), algorithm 1. Ours: a Rayleigh quotient for the trace, averaged over steps."""
    rates = averages([seen.norms**2 / seen.losses for seen in steps], decay)
    return [rate.sum() / rate for rate in rates]


def inverse_loss(steps: Steps, exponent: float, decay: float) -> list[Row]:
    """w in proportion to L(0)^-(1-p) a^-p, with the sum of w a equal to the number of terms."""
    weights = []
    for average in averages([seen.losses for seen in steps], decay):
        w = steps[0].losses ** -(1 - exponent) * average**-exponent
        weights.append(3 * w / (w * average).sum())
    return weights


def dwa(steps: Steps, temperature: float, period: int) -> list[Row]:
    """Liu et al. (2019), eq. 7. Ours: an epoch is a number of steps."""
    weights = []
    for t in range(len(steps)):
        epoch = t // period
        if epoch < 2:
            weights.append(np.ones(3))
            continue
        newer, older = (
            np.mean([seen.losses for seen in steps[(epoch - back) * period : (epoch - back + 1) * period]], axis=0)
            for back in (1, 2)
        )
        weights.append(3 * softmax(newer / older / temperature))
    return weights


def geometric_mean(steps: Steps) -> list[Row]:
    """Chennupati et al. (2019): the derivative of the geometric mean."""
    return [np.prod(seen.losses) ** (1 / 3) / (3 * seen.losses) for seen in steps]


def smooth_tchebycheff(steps: Steps, mu: float, preferences: Row) -> list[Row]:
    """Lin et al. (2024), eq. 10: the derivative of the smooth maximum."""
    return [preferences * softmax(preferences * seen.losses / mu) for seen in steps]


def cov(steps: Steps) -> list[Row]:
    """Groenendijk et al. (2021), eq. 3 to 6, from all ratios so far. The authors' code is one step late."""
    weights, ratios, mean = [np.full(3, 1 / 3)], [np.ones(3)], steps[0].losses
    for t, seen in enumerate(steps[1:], start=2):
        ratios.append(seen.losses / mean)
        mean = mean + (seen.losses - mean) / t
        variation = np.std(ratios, axis=0) / np.mean(ratios, axis=0)
        weights.append(variation / variation.sum())
    return weights


def softadapt(steps: Steps, beta: float) -> list[Row]:
    """Heydari et al. (2019), section 3.1.1, differences of first order."""
    before = [steps[0], *steps[:-1]]
    return [softmax(beta * (now.losses - then.losses)) for now, then in zip(steps, before, strict=True)]


def relobralo(steps: Steps, alpha: float, temperature: float, rho: float, state: int) -> list[Row]:
    """Bischof and Kraus (2021), section 3.2, started as in the authors' code."""
    weights, draws = [np.ones(3)], generator(state)
    next(draws)
    for t in range(1, len(steps)):
        now, before, first = steps[t].losses, steps[t - 1].losses, steps[0].losses
        keeps = next(draws) < 2 * rho - 1
        history = weights[-1] if keeps else 3 * softmax(now / first / temperature)
        stays = alpha if t > 1 else 0.0
        weights.append(stays * history + (1 - stays) * 3 * softmax(now / before / temperature))
    return weights


def famo(steps: Steps, lr: float, weight_decay: float, decay: float) -> list[Row]:
    """Liu et al. (2023), algorithm 1, with Adam.

    Ours, where nobody hands in the losses after the step: the fall of a running average in place of that of the batch.
    ``test_famo.py`` has the paper's own, with an independent implementation.
    """
    weights, xi, mean, square = [], np.zeros(3), np.zeros(3), np.zeros(3)
    smooth = averages([seen.losses for seen in steps], decay)
    for t, seen in enumerate(steps):
        if t > 0:
            z, fall = softmax(xi), np.log(smooth[t - 1]) - np.log(smooth[t])
            jacobian = np.diag(z) - np.outer(z, z)
            slope = jacobian.T @ fall + weight_decay * xi
            mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
            xi = xi - lr * (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        z = softmax(xi)
        weights.append(z / seen.losses / (z / seen.losses).sum())
    return weights


def constrained(steps: Steps, limits: Row, lr: float, max_weight: float, decay: float) -> list[Row]:
    """Dual ascent on the Lagrangian, additive steps. Ours: on a running average; the first term is free."""
    weights, w = [], np.zeros(3)
    for average in averages([seen.losses for seen in steps], decay):
        w = np.clip(w + lr * (average - limits), 0, max_weight)
        weights.append(np.concatenate([[1.0], w[1:]]))
    return weights


def random_weighting(steps: Steps, states: list[int], inverse_normal: Callable[[float], float]) -> list[Row]:
    """Lin et al. (2022), algorithm 1, the normal distribution."""
    generators = [generator(state) for state in states]
    return [softmax(np.array([inverse_normal((next(each) + 1) / 2) for each in generators])) for _ in steps]
