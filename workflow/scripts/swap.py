"""Swap every pair of one target by one source's."""

from prrmse.experiments.swap import swap_experiment
from prrmse.run.pair import run_on_pair

run_on_pair(swap_experiment)
