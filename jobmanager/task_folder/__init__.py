"""Task folders: a folder with a ``task.yaml`` as INGInious has them becomes a Task (``docs/task-folders.md``)."""
