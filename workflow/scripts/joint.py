"""Swap several tensors of one target at once by one source's."""

from prrmse.job import run_on_pair
from prrmse.joint import joint_experiment

run_on_pair(joint_experiment)
