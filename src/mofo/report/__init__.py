"""The report: result files in; tables, figures and one HTML page out. Never loads a model."""

from mofo.report.answer import make_answer
from mofo.report.comparison import Comparison
from mofo.report.conclusion import verdict
from mofo.report.export import to_csv, to_markdown
from mofo.report.page import write_report
from mofo.report.terminal import legend, sequence_table, summary_table
from mofo.results import load_results

__all__ = [
    "Comparison",
    "legend",
    "load_results",
    "make_answer",
    "sequence_table",
    "summary_table",
    "to_csv",
    "to_markdown",
    "verdict",
    "write_report",
]
