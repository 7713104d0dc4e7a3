"""One module per service, and their configuration, health, status and commands."""
