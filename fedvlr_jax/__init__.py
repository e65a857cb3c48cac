"""Federated multimodal recommendation with personalised fusion (FedVLR), as pure functions on JAX."""
