"""What the router of a trained model does: its weights, what they are worth, and the figures of the paper."""
