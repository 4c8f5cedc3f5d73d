"""The one exception that says: what was given cannot be used, however often it is tried."""


class UnusableInput(Exception):
    """Input at fault; the message is one line that names the thing, what there is and what to do.

    Such a failure is recorded under its fingerprint and holds until the input changes. Anything else that stops a
    run (a kill, a full disk, lack of memory) leaves the partition as it was, and the next run tries again.
    """
