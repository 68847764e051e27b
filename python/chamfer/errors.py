"""Errors of chamfer's own; everything else is TypeError, ValueError, KeyError or OSError."""


class CorruptIndexError(ValueError):
    """A file of a saved index or encoder is missing, cut short, or fails its checksum."""


class LockedIndexError(OSError):
    """Another process or thread is writing to the index."""
