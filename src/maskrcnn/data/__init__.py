"""Data sets: reading, writing, checking and augmenting annotated pictures."""

from .dataset import Dataset, Instance, Sample, Samples, open_dataset
from .doctor import Report, doctor, repair, write_report
from .findings import Finding
from .write import FORMATS, write_dataset

__all__ = [
    "FORMATS",
    "Dataset",
    "Finding",
    "Instance",
    "Report",
    "Sample",
    "Samples",
    "doctor",
    "open_dataset",
    "repair",
    "write_dataset",
    "write_report",
]
