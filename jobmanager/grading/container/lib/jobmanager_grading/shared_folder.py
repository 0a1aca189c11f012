"""What the submission consists of, ``/task/student``: kept as it was handed in, and put back before each of its processes.

The folder is shared with the student container, so whatever was in it is the submission's: also depth, modes and numbers of files.
"""

import os
import shutil

from . import place

SHARED = os.path.join(place.TASK, "student")
_ORIGINAL = os.path.join(place.PRIVATE, "submission")


def keep() -> "None":
    """Remember what is in it. To be called before the first program runs."""
    shutil.copytree(SHARED, _ORIGINAL)


def put_back() -> "None":
    """Make it as it was. To be called while no process runs that the submission has started.

    Raises:
        OSError: it cannot be.
    """
    if not os.access(SHARED, os.R_OK | os.W_OK | os.X_OK):
        os.chmod(SHARED, 0o700)
    _empty()
    for name in os.listdir(_ORIGINAL):
        source, target = os.path.join(_ORIGINAL, name), os.path.join(SHARED, name)
        if os.path.isdir(source):
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)


def _empty() -> "None":
    """Remove all that is in it. A folder's folders are moved to the top first, so that no path is long and no call is nested."""
    moved, prefix = 0, ".moved-" + os.urandom(8).hex()  # a name that the submission cannot have taken
    names = os.listdir(SHARED)
    while names:
        path = os.path.join(SHARED, names.pop())
        if os.path.islink(path) or not os.path.isdir(path):
            os.remove(path)
            continue
        os.chmod(path, 0o700)
        for name in os.listdir(path):
            inner = os.path.join(path, name)
            if os.path.islink(inner) or not os.path.isdir(inner):
                os.remove(inner)
                continue
            moved += 1
            os.chmod(inner, 0o700)  # a folder that is moved must be open to its owner
            names.append(f"{prefix}-{moved}")
            os.rename(inner, os.path.join(SHARED, names[-1]))
        os.rmdir(path)
