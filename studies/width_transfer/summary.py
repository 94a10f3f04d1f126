"""Summary of the study of widths."""

import numpy as np
import pandas as pd

from studies.width_transfer.study import CELL, NORMALIZATIONS


def transfer(results: pd.DataFrame) -> pd.DataFrame:
    """Returns what happens to each normalization's best strength as the network grows.

    The best strength of a seed at a width is the one with the lowest validation loss; the *kept* one is that of the
    same seed at the smallest width.

    Returns:
        By normalization, width and seed: ``best``, that strength, as a multiple of the kept one; ``kept_loss`` and
        ``tuned_loss``, the test losses under the kept and the best strength; ``value_share`` and ``gradient_share``
        under the kept one.
    """
    finite = results.assign(validation_loss=results["validation_loss"].fillna(np.inf))
    tuned = finite.loc[finite.groupby(CELL)["validation_loss"].idxmin()].set_index(CELL)
    smallest = results["width"].min()
    kept_strength = tuned["strength"].xs(smallest, level="width").rename("kept").reset_index()
    with_kept = results.merge(kept_strength, on=["normalization", "seed"])
    kept = with_kept[with_kept["strength"] == with_kept["kept"]].set_index(CELL)
    return pd.DataFrame(
        {
            "best": tuned["strength"] / kept["kept"],
            "kept_loss": kept["test_loss"],
            "tuned_loss": tuned["test_loss"],
            "value_share": kept["value_share"],
            "gradient_share": kept["gradient_share"],
        }
    )


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each normalization: how far its best strength moves, and what it costs to keep it.

    Args:
        results: The rows of all cells.

    Returns:
        From the smallest to the largest width: ``best``, the factor between the best strengths, a geometric mean over
        seeds; ``kept_loss`` and ``tuned_loss`` at the largest width; ``price``, what they differ by, and its standard
        error ``price_se`` over seeds, both means over the widths beyond the smallest; and both shares at the two ends.
    """
    table = transfer(results)
    widths = table.index.get_level_values("width")
    narrow, wide = (table.xs(width, level="width").groupby("normalization") for width in (widths.min(), widths.max()))
    wider = table[widths > widths.min()] if widths.nunique() > 1 else table
    prices = (wider["kept_loss"] - wider["tuned_loss"]).groupby(["normalization", "seed"]).mean()
    columns = {
        "best": wide["best"].agg(lambda best: np.exp(np.log(best).mean())),
        "kept_loss": wide["kept_loss"].mean(),
        "tuned_loss": wide["tuned_loss"].mean(),
        "price": prices.groupby("normalization").mean(),
        "price_se": prices.groupby("normalization").sem(),
    }
    for share in ("value_share", "gradient_share"):
        columns |= {f"narrow_{share}": narrow[share].mean(), f"wide_{share}": wide[share].mean()}
    return pd.DataFrame(columns).loc[[name for name in NORMALIZATIONS if name in columns["best"].index]]


def find_edges(results: pd.DataFrame) -> list[str]:
    """Returns the normalizations and widths whose best strength is the first or the last of its grid."""
    ordered = results.sort_values([*CELL, "strength"])
    losses = ordered["validation_loss"].fillna(np.inf)
    place = losses.groupby([ordered[name] for name in CELL]).agg(lambda cell: int(np.argmin(cell)))
    last = results["strength"].groupby(results["normalization"]).nunique().min() - 1
    edges = place[(place == 0) | (place == last)].reset_index()
    return sorted({f"{row.normalization} at width {row.width}" for row in edges.itertuples()})


def tabulate(results: pd.DataFrame, summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Formats the summary."""
    widths = results["width"]
    columns = {
        "best strength moves by": summary["best"].map("× {:.3g}".format),
        f"test loss at {widths.max()}, strength of {widths.min()}": summary["kept_loss"].map("{:.3f}".format),
        "tuned again": summary["tuned_loss"].map("{:.3f}".format),
        "price, mean over widths": _pair(summary, "price", "price_se", "{:.3f} ± {:.3f}"),
        "share of value": _pair(summary, "narrow_value_share", "wide_value_share", "{:.0%} to {:.0%}"),
        "share of gradient": _pair(summary, "narrow_gradient_share", "wide_gradient_share", "{:.0%} to {:.0%}"),
    }
    title = f"From width {widths.min()} to {widths.max()}, {results['seed'].nunique()} seeds"
    return {title: pd.DataFrame(columns).rename_axis("normalization")}


def _pair(summary: pd.DataFrame, first: str, second: str, form: str) -> pd.Series:
    return summary.apply(lambda row: form.format(row[first], row[second]), axis=1)


def conclude(results: pd.DataFrame, summary: pd.DataFrame) -> str:
    """Names the normalization whose strength is the cheapest to keep, and each best strength at the edge of its grid.

    Args:
        results: The rows of all cells.
        summary: What :func:`summarize` returned.
    """
    best = summary["price"].idxmin()
    conclusion = f"Its strength kept from the narrowest network, {best} loses least: {summary['price'][best]:.3f}."
    edges = ", ".join(find_edges(results))
    beyond = f" The best strength is at the edge of the grid, and a better one may be beyond, of: {edges}."
    return conclusion + beyond if edges else conclusion
