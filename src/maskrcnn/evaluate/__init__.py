"""Evaluation: COCO's numbers for boxes and masks, curves, advice, and a report to look at."""

from .evaluation import Evaluation, evaluate, evaluate_results
from .metrics import Curves, Metrics
from .report import lines, write_report

__all__ = ["Curves", "Evaluation", "Metrics", "evaluate", "evaluate_results", "lines", "write_report"]
