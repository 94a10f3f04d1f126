"""Early stopping on the objective."""

from pytorch_lightning.callbacks import EarlyStopping

from lossbalance._utils.checks import check_choice, check_integer


class StopEarly(EarlyStopping):
    """Stops the training when a metric has not improved for some epochs.

    Args:
        monitor: The metric.
        direction: ``maximize`` or ``minimize``.
        patience: Epochs without an improvement.
        min_delta: What counts as one, in the unit of the metric.

    Raises:
        ValueError: If the direction is another word, or the patience less than an epoch.
    """

    def __init__(self, monitor: str, direction: str = "maximize", patience: int = 5, min_delta: float = 0.0) -> None:
        mode = check_choice("direction", direction, ["maximize", "minimize"])[:3]
        super().__init__(monitor, min_delta, check_integer("patience", patience, 1), mode=mode)
