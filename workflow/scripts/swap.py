"""Swap every pair of one target by one source's."""

from prrmse.job import run_on_pair
from prrmse.swap import swap_experiment

run_on_pair(swap_experiment)
