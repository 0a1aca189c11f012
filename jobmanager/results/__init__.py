"""What was seen of a job becomes what is said of it: facts, verdict, result file, local answers, one result."""
