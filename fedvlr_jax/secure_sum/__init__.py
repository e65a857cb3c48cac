"""Secure sums: a protocol by which a server learns the sum of its clients' words, and nothing else of them."""
