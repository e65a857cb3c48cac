"""The statements of the paper about convergence and complexity, with constants, and how to measure both sides."""
