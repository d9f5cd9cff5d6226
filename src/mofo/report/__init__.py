"""The report: result files in; tables, figures and one HTML page out. Never loads a model."""

from mofo.report.page import write_report
from mofo.report.results import load_results
from mofo.report.tables import summary_table
from mofo.report.verdict import verdict

__all__ = ["load_results", "summary_table", "verdict", "write_report"]
