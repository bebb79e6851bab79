"""The one error that is the user's to mend."""


class UserError(ValueError):
    """Bad input: what is wrong, where, and what to do, in one line. The command line prints it and exits with 2."""
