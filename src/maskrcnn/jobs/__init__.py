"""Predict many files into a folder: read ahead, write each result as it is done, survive what goes wrong."""

from .batches import batched, predict_batch
from .behind import behind
from .lanes import lanes, side_by_side
from .listing import Job, find_jobs
from .run import Report, Step, predict_files
from .settings import DEFAULT_OUT, SAVE, agree, result_settings, writing

__all__ = [
    "DEFAULT_OUT",
    "SAVE",
    "Job",
    "Report",
    "Step",
    "agree",
    "batched",
    "behind",
    "find_jobs",
    "lanes",
    "predict_batch",
    "predict_files",
    "result_settings",
    "side_by_side",
    "writing",
]
