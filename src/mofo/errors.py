"""The one exception that the command line shows to its user."""


class UserError(Exception):
    """Input that cannot be used: the message says what was wrong, what was expected and what to do.

    The command line prints the message as one sentence and exits with code 2.
    """
