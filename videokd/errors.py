"""The errors videokd raises: each says what was given, what is accepted and what to do next."""


class VideoKDError(Exception):
    """Base of every error that the user of videokd can mend."""


class DecodeError(VideoKDError):
    """A file could not be opened or decoded; the message names the path and, where known, the frame."""


class DataError(VideoKDError):
    """A dataset, manifest or run folder is not what it should be."""


class ConfigError(VideoKDError):
    """A setting is unknown, misspelt, or does not fit the others."""
