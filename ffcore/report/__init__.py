"""One HTML page about runs. Without torch."""

from ffcore.report.advice import advice
from ffcore.report.page import page
from ffcore.report.record import Record, ReportError, read_records
from ffcore.report.summary import summary

__all__ = ["Record", "ReportError", "advice", "page", "read_records", "summary"]
