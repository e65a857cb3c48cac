"""The commands: one module each with `main`, and `cli` with what they share."""
