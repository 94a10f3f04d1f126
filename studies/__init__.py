"""Studies on open data of what a weighting, a limit or a penalty gains: beside the package, not in it."""
