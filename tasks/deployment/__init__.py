"""Out of the training machine: a network as one file that works alone, and what it is worth there."""

INPUT = "images"  # the name of an exported file's input
METADATA = "mobilenet_tasks"  # the key of its metadata that hold ours, as JSON
