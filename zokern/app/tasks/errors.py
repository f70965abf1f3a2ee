"""The one exception that ends a command with a sentence instead of a traceback."""

from __future__ import annotations

import errno

__all__ = ["UserError", "explain_os_error"]


class UserError(Exception):
    """Something the user can understand and change; its text is one or two plain sentences.

    Commands print it on stderr and exit with code 2. Library code may catch it as any exception.
    """


def explain_os_error(error: OSError, doing: str) -> UserError:
    """Turns an `OSError` into a sentence.

    Args:
        error: what the operating system said.
        doing: what was being done, as "writing out/metrics.jsonl".

    Returns:
        A `UserError` naming the cause; a full disk gets its own wording.
    """
    where = f" ({error.filename})" if error.filename and str(error.filename) not in doing else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"The disk is full: failed {doing}{where}. Free some space and run again; "
            "what was written before is intact."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"No permission: failed {doing}{where}.")
    return UserError(f"Failed {doing}{where}: {error.strerror or error}.")
