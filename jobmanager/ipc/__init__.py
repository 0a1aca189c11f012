"""Messages between the caller's process and its children, and the start of a child process."""
