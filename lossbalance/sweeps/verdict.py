"""Recommendation of a report: one sentence on which setting to use, with its statistical support."""

import math

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from lossbalance.sweeps.comparison import CONFIDENCE, Comparison

POWER = 0.8
"""How likely the runs that are advised are to tell, if the difference is what it looks like."""
_MOST = 1000  # pairs, beyond which nobody would wait


def verdict(comparison: Comparison, margin: float | None = None) -> str:
    """Says in one sentence what to use, and how sure that is.

    A difference is *better* when its interval excludes 0, *not practically relevant* when the interval is inside the
    margin, and otherwise there are *too few runs to say*.

    Args:
        comparison: The settings.
        margin: The smallest practically relevant difference of the metric; 1 % of the best mean by default.
    """
    best, settings, metric = comparison.best, comparison.settings, comparison.metric
    if best is None:
        return f"No run came to its end with a finite {metric}, so there is nothing to compare."
    row, count = settings.loc[best], int((settings["n"] > 0).sum())
    value, runs = quantity(row["mean"], row["sd"]), int(row["n"])
    if count == 1:
        over = "one run" if runs == 1 else f"{runs} runs"
        return f"Only one setting came to its end: `{best}`, with a {metric} of {value} over {over}."
    standing = f"the {'lowest' if comparison.lower else 'highest'} {metric} of {count} settings, {value}"
    if runs < 2:
        return f"`{best}` has {standing}, but one run each cannot tell it from chance: repeat with seed=0,1,2."
    standing += f" over {runs} runs"
    margin = default_margin(comparison) if margin is None else margin
    if comparison.baseline in (None, best):
        said = _judge_alone(comparison, best, standing, margin)
    else:
        said = _judge_against(comparison, best, standing, str(comparison.baseline), margin, count)
    return said + _name_baseline(comparison, said) + _lucky(comparison, best) + "."


def default_margin(comparison: Comparison) -> float:
    """Returns the smallest practically relevant difference by default: 1 % of the best mean."""
    return 0.0 if comparison.best is None else 0.01 * abs(comparison.settings.loc[comparison.best, "mean"])


def pairs_needed(difference: float, sd: float, margin: float, overlap: float = 0.0, comparisons: int = 1) -> int | None:
    r"""Returns how many pairs of runs are likely to tell, if difference and spread are what they look like.

    With n pairs the test of level :math:`\alpha` finds a gap :math:`\delta` with a power of :math:`1 - \beta` when

    .. math:: (t_{n-1, 1 - \alpha / 2} + t_{n-1, 1 - \beta}) \, s \, \sqrt{1 / n + o} \le \delta

    where o is the overlap of folds. The gap is the difference, or, if that is inside the margin, its distance from it.

    Args:
        difference: The mean of the paired differences.
        sd: Their standard deviation s.
        margin: The smallest practically relevant difference.
        overlap: The size of a fold over that of the training data; 0 where runs share no data.
        comparisons: Among how many the best was chosen.

    Returns:
        The number of pairs; None if no number would do, or more than a thousand.

    Example:
        >>> pairs_needed(difference=0.25, sd=0.1, margin=0.01)
        4
    """
    gap = abs(difference) if abs(difference) >= margin else margin - abs(difference)
    level = 1 - (1 - CONFIDENCE) / 2 / comparisons
    n = np.arange(2, _MOST + 1)
    reach = (stdtrit(n - 1, level) + stdtrit(n - 1, POWER)) * sd * np.sqrt(1 / n + overlap)
    enough = n[reach <= gap]
    return int(enough[0]) if len(enough) else None


def quantity(mean: float, sd: float) -> str:
    """Writes a mean and its standard deviation with as many digits as the deviation warrants."""
    if not np.isfinite(sd) or sd == 0:
        return f"{mean:.4g}"
    digits = 1 - int(np.floor(np.log10(sd)))
    return f"{mean:.{max(digits, 0)}f} ± {sd:.{max(digits, 0)}f}" if digits <= 6 else f"{mean:.4g} ± {sd:.2g}"


def _judge_alone(comparison: Comparison, best: str, standing: str, margin: float) -> str:
    rivals = _within_noise(comparison, best)
    near = _near(comparison, best, rivals)
    if comparison.baseline == best:
        return f"Keep {comparison.baseline_name}: `{best}` has {standing}; {near}"
    if not rivals or len(rivals) < len(_others(comparison, best)):
        return f"Use `{best}`: it has {standing}; {near}"
    differences = comparison.differences(best).loc[rivals, ["low", "high"]].abs()
    if (differences <= margin).all(axis=None):
        near = f"{_name(rivals)} within {margin:.3g} of it"
        return f"No practically relevant difference: `{best}` has {standing}, but {near}"
    rival = comparison.settings.index[comparison.settings.index.isin(rivals)][0]
    return (
        f"The differences are within noise: `{best}` has {standing}, but {_name(rivals)} too close to tell apart; "
        f"{_advise(comparison, rival, best, margin)}"
    )


def _judge_against(comparison: Comparison, best: str, standing: str, baseline: str, margin: float, count: int) -> str:
    pair, name = comparison.differences(baseline).loc[best], comparison.baseline_name
    if pair["pairs"] < 2:
        return f"`{best}` looks better: it has {standing}, but too few of its runs share seed and fold with {name}"
    low, high = sorted(abs(pair[["low", "high"]])) if pair["low"] * pair["high"] > 0 else (pair["low"], pair["high"])
    gap = (
        f"{abs(pair['difference']):.3g} ({CONFIDENCE:.0%} interval {low:.3g} to {high:.3g}, {int(pair['pairs'])} pairs)"
    )
    if max(abs(pair["low"]), abs(pair["high"])) <= margin:
        return (
            f"No practically relevant difference: `{best}` has {standing}, but its distance from {name}, {gap}, "
            f"is inside the margin of {margin:.3g}: either will do"
        )
    if not comparison.surely_differs(best, baseline):
        return (
            f"Too few runs to say: `{best}` looks better, for it has {standing}, but its distance from {name}, {gap}, "
            f"may be chance; {_advise(comparison, best, baseline, margin)}"
        )
    rivals = [rival for rival in _within_noise(comparison, best) if rival != baseline]
    near = _near(comparison, best, rivals)
    if comparison.surely_differs(best, baseline, comparisons=count - 1):
        return f"Use `{best}`: it has {standing}, better than {name} by {gap}; {near}"
    return (
        f"`{best}` is probably best: it has {standing}, better than {name} by {gap}, "
        f"but the best of {count} settings is biased upwards (selection), so confirm it with more seeds, "
        f"{_advise(comparison, best, baseline, margin, count - 1)}; {near}"
    )


def _advise(comparison: Comparison, setting: str, reference: str, margin: float, comparisons: int = 1) -> str:
    """Says how many more seeds would tell two settings apart."""
    pair = comparison.paired(reference).loc[setting]
    if pair["pairs"] < 2:
        return "repeat with seed=0,1,2"
    needed = pairs_needed(pair["difference"], pair["sd"], margin, comparison.overlap, comparisons)
    if needed is None:
        seen = comparison.differences(reference).loc[setting, ["low", "high"]].abs().max()
        unlikely = f"more seeds are unlikely to settle it: no difference above {seen:.3g} can be seen"
        return unlikely + (f", so take `{reference}`" if reference == comparison.baseline else ", so take either")
    folds = max(comparison.runs.info["fold"].nunique(), 1)
    more = max(math.ceil((needed - pair["pairs"]) / folds), 1)
    return f"about {more} more seed{'s' if more > 1 else ''} would tell"


def _name_baseline(comparison: Comparison, said: str) -> str:
    """Says which setting the baseline is, where a sentence has its name alone."""
    baseline = comparison.baseline
    if baseline is None or f"`{baseline}`" in said or comparison.baseline_name not in said:
        return ""
    return f"; {comparison.baseline_name} is `{baseline}`"


def _lucky(comparison: Comparison, best: str) -> str:
    """Names the setting that looks better still, but has run once."""
    first = comparison.settings.index[0]
    if first == best or comparison.settings.loc[first, "n"] != 1:
        return ""
    return f"; `{first}` looks better still, but has run once: repeat it"


def _within_noise(comparison: Comparison, best: str) -> list[str]:
    """Returns the other settings whose interval of the difference from the best holds 0."""
    from_best = _others(comparison, best)
    from_best = from_best[from_best["pairs"] > 1]
    alike = ~((from_best["low"] > 0) | (from_best["high"] < 0))
    return [str(setting) for setting in from_best.index[alike]]


def _near(comparison: Comparison, best: str, rivals: list[str]) -> str:
    """Says which settings are within noise of the best, and how many have run too seldom to tell."""
    seldom = int((_others(comparison, best)["pairs"] < 2).sum())
    near = f"{_name(rivals) if rivals else 'no other setting is'} within noise of it"
    return near + (f", and {seldom} {'has' if seldom == 1 else 'have'} run too seldom to tell" if seldom else "")


def _others(comparison: Comparison, best: str) -> pd.DataFrame:
    ran = comparison.settings["n"] > 0
    return comparison.differences(best)[ran].drop(index=best)


def _name(settings: list[str]) -> str:
    if len(settings) > 3:
        return f"{len(settings)} others are"
    names = [f"`{setting}`" for setting in settings]
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"
