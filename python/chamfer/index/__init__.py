"""The index: token vectors, a reducer, candidates and a cascade of stages behind one search."""

from chamfer.index.index import Index
from chamfer.index.searching import SearchResult
from chamfer.index.settings import SearchSettings
from chamfer.index.tuning_report import TuningPoint, TuningReport
from chamfer.index.verification import Finding, verify

__all__ = ["Finding", "Index", "SearchResult", "SearchSettings", "TuningPoint", "TuningReport", "verify"]
