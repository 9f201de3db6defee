"""Results as pictures, files and tables."""

from .coco import CocoWriter, coco_annotations, coco_categories, coco_file, coco_image, to_coco
from .files import KINDS, instance_map, save, to_geojson, to_labelme, to_yolo, write, write_picture
from .overlay import as_rgb, draw
from .palette import colour
from .shapes import crop_polygons, encode_crop, encode_runs
from .tables import to_csv, to_dataframe
from .video import VideoWriter, frame_record

__all__ = [
    "KINDS",
    "CocoWriter",
    "VideoWriter",
    "as_rgb",
    "coco_annotations",
    "coco_categories",
    "coco_file",
    "coco_image",
    "colour",
    "crop_polygons",
    "draw",
    "encode_crop",
    "encode_runs",
    "frame_record",
    "instance_map",
    "save",
    "to_coco",
    "to_csv",
    "to_dataframe",
    "to_geojson",
    "to_labelme",
    "to_yolo",
    "write",
    "write_picture",
]
