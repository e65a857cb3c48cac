"""Sweeps: many points of one configuration, together where they share a program, and the one validation prefers."""
