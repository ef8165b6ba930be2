"""A folder is a task; a file is shared by all tasks. `python -m tasks` prints the paper's application tables."""
