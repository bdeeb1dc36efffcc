"""The one exception a user is meant to read. Commands print its text and exit with code 2; no traceback."""


class UserError(ValueError):
    """The input or the settings are wrong; the message says what to do about it."""
