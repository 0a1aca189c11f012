"""The caller's process: it carries out what scheduling decides."""
