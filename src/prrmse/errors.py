"""The one exception for anything that the user, not the program, has to mend."""


class InputError(ValueError):
    """Bad input: a file, a parameter or an argument.

    The message is one line that names the file or the key, says what is wrong and what to do.
    Command-line faces print it as ``error: ...`` and exit with status 2, without a traceback.
    """
