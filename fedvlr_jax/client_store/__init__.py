"""Private states of more clients than memory holds: records in segment files, written once, read at random."""
