"""Federated multimodal recommendation with personalised fusion (FedVLR), as pure functions on JAX."""

__version__ = "0.2.0"
