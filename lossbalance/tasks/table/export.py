"""Export of a table network with its scaling by ``torch.export``."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lossbalance._utils.files import write_bytes
from lossbalance.tasks.table.features import ColumnEncoding
from lossbalance.tasks.table.predictor import TablePredictor, class_probabilities
from lossbalance.tasks.table.targets import Target

_EXAMPLE_ROWS = 3  # any number but 0 and 1, which torch.export takes for constants


class ScaledNetwork(nn.Module):
    """A network from raw columns to predictions in the units of the targets.

    Args:
        predictor: The network and its schema.

    Shape:
        ``columns`` ``[rows, columns]``, float64, in the order of ``schema.columns``: numbers in their own unit, dates
        as days since 1970, nan where they are missing; a text as its position in the list of categories, a missing one
        as that of the empty text. The result maps each target to numbers ``[rows]`` in its unit, or to probabilities
        ``[rows, classes]``.
    """

    def __init__(self, predictor: TablePredictor) -> None:
        super().__init__()
        self.net, self.schema = predictor.net, predictor.schema
        self.encodings = [column for column in predictor.schema.encoder.columns if column.width]

    def forward(self, columns: Tensor) -> dict[str, Tensor]:
        """Returns the predictions."""
        encoded = [_encode(each, columns[:, i]) for i, each in enumerate(self.encodings)]
        outputs = self.net(torch.cat(encoded, dim=1).float())
        return {
            target.name: _decode(target, output.double())
            for target, output in zip(self.schema.targets, outputs, strict=True)
        }


def export(predictor: TablePredictor, path: str | Path) -> None:
    """Writes the network with its scaling; ``torch.export.load(path).module()`` runs it without this package.

    The file also holds ``schema.json``: the columns in order with the categories of texts, and the classes of targets.
    """
    network = ScaledNetwork(predictor).eval()
    example = torch.zeros(_EXAMPLE_ROWS, len(network.encodings), dtype=torch.float64)
    program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("rows", min=1)},))
    content = BytesIO()
    torch.export.save(program, content, extra_files={"schema.json": json.dumps(describe(predictor), indent=2)})
    write_bytes(path, content.getvalue())


def describe(predictor: TablePredictor) -> dict[str, Any]:
    """Returns what the inputs and outputs of an exported network mean."""
    columns = [column for column in predictor.schema.encoder.columns if column.width]
    return {
        "columns": [{"name": each.name, "kind": each.kind, "categories": list(each.categories)} for each in columns],
        "targets": [
            {"name": each.name, "kind": each.kind, "classes": list(each.classes)} for each in predictor.schema.targets
        ],
    }


def _encode(column: ColumnEncoding, values: Tensor) -> Tensor:
    """Returns the features ``[rows, features]`` of a column, as :class:`ColumnEncoding` encodes them."""
    if column.kind == "text":
        return (values.unsqueeze(1) == torch.arange(len(column.categories))).double()
    missing = values.isnan()
    features = []
    if column.scale:
        features.append(torch.where(missing, 0.0, (values - column.shift) / column.scale))
    if column.missing:
        features.append(missing.double())
    return torch.stack(features, dim=1)


def _decode(target: Target, output: Tensor) -> Tensor:
    return (
        output.squeeze(1) * target.scale + target.mean
        if target.kind == "number"
        else class_probabilities(target, output)
    )
