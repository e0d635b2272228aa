"""Swap several tensors of one target at once by one source's."""

from prrmse.experiments.joint import joint_experiment
from prrmse.run.pair import run_on_pair

run_on_pair(joint_experiment)
