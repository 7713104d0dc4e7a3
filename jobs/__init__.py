"""The only package that touches the outside: commands, the Flink job, Kafka, the local stack, recordings."""
