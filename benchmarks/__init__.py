"""Measures beside the peers that people would otherwise use, in the same run. Belongs to the source tree, not to the wheel."""
