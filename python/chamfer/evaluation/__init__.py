"""Evaluation: recall against the exact answer, judged measures through ir-measures, TREC files, milliseconds by stage."""

from chamfer.evaluation.latency import MeasuredSearch, measure_searches
from chamfer.evaluation.measures import evaluate, make_run, recall_against_exact
from chamfer.evaluation.trec import Qrels, Run, read_qrels, write_run

__all__ = [
    "MeasuredSearch",
    "Qrels",
    "Run",
    "evaluate",
    "make_run",
    "measure_searches",
    "read_qrels",
    "recall_against_exact",
    "write_run",
]
