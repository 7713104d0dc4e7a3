"""The local stack as plain processes: toolchain, broker, services."""
