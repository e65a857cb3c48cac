"""Audits: what a server that looks at uploads learns about its clients."""
