"""PR-RMSE: which pretrained CNN parameters can be reused, in which layers, and what is gained.

Importing the package imports nothing else; see docs/design.md for what lies in which module.
"""
