"""The one exception that means: what the user gave cannot be used, and here is what to do."""


class RetinaflowError(Exception):
    """Bad input or configuration.

    The message says which file, row or key, what was found, what was expected and what to do.
    """
