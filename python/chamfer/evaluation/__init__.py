"""Evaluation: recall against the exact answer, measures by judgements, TREC files, milliseconds by stage."""

from chamfer.evaluation.comparison import compare_with_exact
from chamfer.evaluation.latency import MeasuredSearch, measure_searches
from chamfer.evaluation.measures import evaluate, make_run, recall_against_exact
from chamfer.evaluation.picture import draw_recall_against_latency
from chamfer.evaluation.trec import Qrels, Run, read_qrels, write_run

__all__ = [
    "MeasuredSearch",
    "Qrels",
    "Run",
    "compare_with_exact",
    "draw_recall_against_latency",
    "evaluate",
    "make_run",
    "measure_searches",
    "read_qrels",
    "recall_against_exact",
    "write_run",
]
