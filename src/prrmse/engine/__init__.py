"""The engine of a layer sweep: many one-tensor changes of one network, with all work shared that does not change."""

from prrmse.engine.program import Program, TracingError, largest_step, outlines, trace
from prrmse.engine.rewrite import rewrite
from prrmse.engine.schedule import schedule

__all__ = ["Program", "TracingError", "largest_step", "outlines", "rewrite", "schedule", "trace"]
