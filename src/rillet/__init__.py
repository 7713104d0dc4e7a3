"""rillet: real-time recommendation learning, from two Kafka topics to a model that never stops learning.

The rooms of this package are folders at the top of the repository; the links beside this file give them their
one import root, for checkouts, wheels, type checkers and Flink jobs alike (docs/decisions/0005).
"""
