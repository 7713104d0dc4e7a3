"""`rillet bench joiner`: the joiner beside its peers, on one machine, one broker and the same recorded events."""
