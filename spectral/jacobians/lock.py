"""What a process has once: torch's forward mode, and the flags, attributes and hooks of a model."""

import threading

# Held by the thread that calls a model, or differentiates an operation forwards; it may take it again.
ALONE = threading.RLock()
