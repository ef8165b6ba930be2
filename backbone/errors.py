"""The one exception that means: the user gave something that cannot be used."""


class InputError(ValueError):
    """What the user gave cannot be used. One sentence: the file, the field, the value, and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """
