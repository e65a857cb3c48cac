"""What leaves a simulation for devices: programs that need jax alone, and a loader that a reader can check."""
