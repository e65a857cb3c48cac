"""The packages of a wheel: fedvlr_jax, and configs/ as fedvlr_jax.configs. pyproject.toml has everything else."""

from setuptools import find_namespace_packages, find_packages, setup

CONFIGS = find_namespace_packages(include=["configs", "configs.*"])

setup(
    packages=[*find_packages(include=["fedvlr_jax", "fedvlr_jax.*"]), *(f"fedvlr_jax.{name}" for name in CONFIGS)],
    package_dir={"fedvlr_jax.configs": "configs"},
)
