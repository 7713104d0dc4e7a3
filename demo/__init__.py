"""The demo: a real local stack, driven closed-loop by a recording, measured, audited and reported."""
