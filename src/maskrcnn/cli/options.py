"""The options of `predict` alone; those of the cluster are in `cluster`, those of all commands in `common`."""

from __future__ import annotations

from typing import Annotated

import typer

_VIDEO = "Videos"

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Pictures, folders, globs ('photos/**/*.jpg') or URLs; videos, streams (rtsp://...) or cameras (0).",
        show_default=False,
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out", "-o", help="Folder of the results. Default: beside a single file, otherwise ./out."
    ),
]
Save = Annotated[
    str | None,
    typer.Option(
        help="Which of overlay, json, masks, cutouts, labelme, yolo, csv, geojson; commas between. "
        "Of a video: overlay, json. Default: overlay,json; with --ray: parquet,json, and no others."
    ),
]
Score = Annotated[float | None, typer.Option(help="Least score of a detection, 0 to 1.")]
Nms = Annotated[
    float | None, typer.Option(help="Overlap (IoU) above which the weaker of two detections goes, 0 to 1.")
]
Classes = Annotated[
    str | None, typer.Option(help="Only these classes: names or numbers from 0, commas between.")
]
MaxDetections = Annotated[int | None, typer.Option(help="At most this many instances a picture.")]
MinSize = Annotated[int | None, typer.Option(help="Resize the short side to this many pixels...")]
MaxSize = Annotated[int | None, typer.Option(help="... unless the long side would exceed this.")]
BatchSize = Annotated[
    int,
    typer.Option(
        min=1, help="Pictures in the network together; of many on a CPU two at least, side by side."
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Keep what an earlier run into --out has done, and do the rest.")
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Also look into subfolders.")]
ColorBy = Annotated[str, typer.Option(help="One colour for each instance or each class.")]
MaxPixels = Annotated[int | None, typer.Option(help="Refuse pictures of more pixels (default 250 million).")]
Tile = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="For large pictures: predict squares of this many pixels, and put the instances together.",
    ),
]
Overlap = Annotated[
    float | None, typer.Option(help="Share of a tile that neighbours have in common (default 0.2).")
]
Track = Annotated[
    bool,
    typer.Option("--track", help="Give the same object the same number and colour.", rich_help_panel=_VIDEO),
]
Stride = Annotated[
    int | None, typer.Option(min=1, help="Take every so manyth frame.", rich_help_panel=_VIDEO)
]
Start = Annotated[str | None, typer.Option(help="Begin there: seconds, or 1:23:45.", rich_help_panel=_VIDEO)]
End = Annotated[str | None, typer.Option(help="End there.", rich_help_panel=_VIDEO)]
