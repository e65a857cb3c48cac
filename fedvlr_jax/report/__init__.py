"""Pages of runs, sweeps and benchmarks: one HTML file each, which opens without a network."""
