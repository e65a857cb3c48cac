"""The loop outside of the compiled programs: rounds, evaluation, checkpoints, and the files of a run."""
