"""Paths in a grading container, all found from this file, ``/task/.jobmanager/lib/jobmanager_grading/place.py``."""

import os

LIBRARY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PRIVATE = os.path.dirname(LIBRARY)
TASK = os.path.dirname(PRIVATE)
COMMANDS = os.path.join(PRIVATE, "bin")
INPUT = os.path.join(PRIVATE, "input.json")
ANSWER = os.path.join(PRIVATE, "result.json")
ARCHIVE = os.path.join(PRIVATE, "archive")
OLD_ARCHIVE = "/archive"  # where graders written for INGInious put files, and where they find those of their course
OLD_COURSE = "/course"
COURSE = os.path.join(TASK, "course")
CONTROL = os.path.join(PRIVATE, "control")
TRANSLATIONS = os.path.join(TASK, "lang")
