"""A federation over Flower: its two apps, and a whole federation on one machine. The extra ``flower``."""
