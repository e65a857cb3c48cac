"""``python -m fedvlr_jax.settings`` prints docs/settings.md."""

from fedvlr_jax.settings.page import page

print(page(), end="")
