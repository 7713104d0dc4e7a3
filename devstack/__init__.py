"""The loop on one machine: a broker, a Flink cluster and the services as plain processes."""
