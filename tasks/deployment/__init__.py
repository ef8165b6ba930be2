"""Out of the training machine: a network as one file that works alone, and what it is worth there."""
