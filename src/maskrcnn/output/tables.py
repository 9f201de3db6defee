"""One row an instance: for CSV, GeoJSON properties and data frames."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingExtraError
from ..records import Result

if TYPE_CHECKING:
    import pandas

COLUMNS = ("name", "label", "score", "x1", "y1", "x2", "y2", "area", "centroid_x", "centroid_y")


def instance_row(result: Result, i: int) -> dict[str, Any]:
    """Name, label, score, box, area (pixels of the mask) and its centroid; all lengths in pixels.

    The centre of the first pixel is (0.5, 0.5). Without a mask pixel the centroid is NaN.
    """
    crop, (y, x) = result.crop(i)
    area = int(crop.sum())
    centroid = (float("nan"), float("nan"))
    if area:
        centroid = (
            x + 0.5 + float(crop.sum(0) @ np.arange(crop.shape[1])) / area,
            y + 0.5 + float(crop.sum(1) @ np.arange(crop.shape[0])) / area,
        )
    label = int(result.labels[i])
    values = (result.names[label], label, float(result.scores[i]), *result.boxes[i].tolist(), area, *centroid)
    return dict(zip(COLUMNS, values, strict=True))


def to_dataframe(result: Result) -> pandas.DataFrame:
    """One row an instance, columns as `COLUMNS`. Raises MissingExtraError without pandas."""
    try:
        import pandas
    except ImportError as error:
        raise MissingExtraError(
            "to_dataframe: want pandas, not installed; pip install 'maskrcnn[tables]'"
        ) from error
    return pandas.DataFrame([instance_row(result, i) for i in range(len(result))], columns=list(COLUMNS))


def to_csv(result: Result) -> str:
    """The same rows as CSV, with a header; no centroid is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for i in range(len(result)):
        row = instance_row(result, i)
        writer.writerow({k: "" if v != v else v for k, v in row.items()})
    return text.getvalue()
