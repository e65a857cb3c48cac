"""A round: what is drawn, what a client does, how uploads become one gradient, and how a trained client scores."""
