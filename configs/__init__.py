"""Configurations: base.py holds every field, the other files what differs for one data set."""
