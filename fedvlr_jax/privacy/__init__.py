"""What a run with noise is worth: user-level differential privacy, accounted exactly."""
