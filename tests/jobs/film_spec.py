"""The least feature spec, as text: one slot, one task."""

SPEC = """\
[spec]
name = "films"
[[item]]
name = "film"
slot = 16
kind = "id"
[[tasks]]
name = "watch"
action = "watch"
window_ms = 600000
negative_rate = 0.5
"""
