"""The modules and functions that Python graders written for INGInious import. They stand on `jobmanager_grading`.

``import inginious`` leads here, too.
"""

DEBUG = False
