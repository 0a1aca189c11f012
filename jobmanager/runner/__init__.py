"""The runner, PID 1 of every container: its frames, both ends' codec, and the built program. `docs/runner.md` is its contract."""
