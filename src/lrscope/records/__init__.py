"""Plain data that every room writes and ``reports`` reads: no torch in here."""

from lrscope.records.cost import Cost
from lrscope.records.critical import CriticalLR
from lrscope.records.environment import environment
from lrscope.records.lines import drop_torn_line, read_lines
from lrscope.records.loggers import Logger, as_metrics
from lrscope.records.plan import Plan
from lrscope.records.run import Event, Run, RunWriter, Series, Status, add_events
from lrscope.records.strict import strict_json
from lrscope.records.table import Table
from lrscope.records.whole import PARTIAL, write_json, write_whole

__all__ = [
    "PARTIAL",
    "Cost",
    "CriticalLR",
    "Event",
    "Logger",
    "Plan",
    "Run",
    "RunWriter",
    "Series",
    "Status",
    "Table",
    "add_events",
    "as_metrics",
    "drop_torn_line",
    "environment",
    "read_lines",
    "strict_json",
    "write_json",
    "write_whole",
]
