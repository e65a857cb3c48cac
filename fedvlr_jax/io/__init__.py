"""Everything a run leaves in its workdir: checkpoints, metrics, progress, environment."""
