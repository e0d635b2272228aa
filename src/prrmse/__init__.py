"""PR-RMSE."""
