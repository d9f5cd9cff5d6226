"""The report: result files in; tables, figures and one HTML page out. Never loads a model."""

from mofo.report.comparison import Comparison
from mofo.report.conclusion import verdict
from mofo.report.page import write_report
from mofo.report.terminal import summary_table
from mofo.results import load_results

__all__ = ["Comparison", "load_results", "summary_table", "verdict", "write_report"]
