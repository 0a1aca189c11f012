"""What the caller's process and its children tell each other, and how a child process is started."""
