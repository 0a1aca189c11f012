"""From what was observed of a job to its result: facts, verdict, result file, merging."""
