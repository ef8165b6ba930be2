"""One file for each on-disk layout: `read(root, ...) -> Records`; no torch, no Lightning."""
