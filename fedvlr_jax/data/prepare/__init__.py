"""From raw files to a canonical folder: filters, split, ids, features and writing, each a small pure step.

`pipeline.prepare` is the whole way; fedvlr_jax/data/formats/ has the readers.
"""
