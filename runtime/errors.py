"""The one exception family that users see: what was got, what was expected, what to do."""


class GanglionError(Exception):
    """Base of every error that the command line prints as one line instead of a traceback."""


class ContractError(GanglionError):
    """A contract, or something measured against it, does not fit."""


class BundleError(GanglionError):
    """A file is not a usable bundle."""


class BagError(GanglionError):
    """A bag cannot be read, or lacks what the contract needs."""
