"""A folder is a task; a file is shared by all tasks. `python -m tasks` prints the paper's application tables."""

import os

# ONNX Runtime's own builds (since 1.3x) send what they are used for to Microsoft, and keep an id of the device, unless
# this says otherwise before it is imported (its Privacy.md). Here nothing is sent unless the user asks for it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
