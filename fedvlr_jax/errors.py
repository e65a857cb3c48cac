"""Errors that a user can cause and mend; the command line prints their message and exits with code 2."""


class UserError(ValueError):
    """Base of all errors whose message is meant for the user: expected, found, where."""


class DataError(UserError):
    """A data set that is missing, incomplete or inconsistent."""


class ConfigError(UserError):
    """A setting that does not exist, is out of range, or contradicts another one."""


class CheckpointError(UserError):
    """A checkpoint that is missing, or belongs to another configuration or data set."""


class TrainingError(UserError):
    """A run that cannot go on with these settings, such as one in which every client diverges."""
