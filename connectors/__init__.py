"""Adapters to the outside: Kafka topics, producers, readers, the delta log and the example source on Kafka."""
