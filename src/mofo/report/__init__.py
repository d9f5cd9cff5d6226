"""The report: result files in; tables, figures and one HTML page out. Never loads a model."""

from mofo.report.comparison import load_results
from mofo.report.conclusion import verdict
from mofo.report.page import write_report
from mofo.report.terminal import summary_table

__all__ = ["load_results", "summary_table", "verdict", "write_report"]
