"""Data sets: reading, writing, checking and augmenting annotated pictures."""

from .augment import Recipe, augment, copy_paste
from .dataset import Dataset, Instance, Sample, Samples, join, open_dataset, relabel
from .doctor import Report, doctor, repair, write_report
from .findings import Finding
from .write import FORMATS, write_dataset

__all__ = [
    "FORMATS", "Dataset", "Finding", "Instance", "Recipe", "Report", "Sample", "Samples", "augment", "copy_paste",
    "doctor", "join", "open_dataset", "relabel", "repair", "write_dataset", "write_report",
]  # fmt: skip
