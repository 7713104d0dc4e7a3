"""One module per service, and their configuration, health and commands."""
