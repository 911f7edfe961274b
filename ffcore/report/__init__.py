"""One HTML page about runs. Without torch."""

from ffcore.report.page import page
from ffcore.report.record import Record, ReportError, read_records
from ffcore.report.summary import summary

__all__ = ["Record", "ReportError", "page", "read_records", "summary"]
