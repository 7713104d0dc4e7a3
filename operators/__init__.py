"""What runs inside Flink: the operators of the joiner job, and how Flink is to run them."""
