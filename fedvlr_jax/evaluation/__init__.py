"""Honest evaluation: tie-exact ranks over the whole catalogue, metrics, intervals and tests."""
