"""Data sets: reading, writing, checking and augmenting annotated pictures."""

from .dataset import Dataset, Instance, Sample, Samples, open_dataset
from .findings import Finding

__all__ = ["Dataset", "Finding", "Instance", "Sample", "Samples", "open_dataset"]
