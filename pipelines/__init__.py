"""What the trainer and the dump do turn after turn: read, learn or write, publish, keep what a restart needs."""
