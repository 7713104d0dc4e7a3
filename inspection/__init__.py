"""What a person looks at while the loop runs: records of its topics, decoded, and the state of all of it at a glance."""
