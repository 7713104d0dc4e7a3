"""Serving: the predictor, the auto-batcher, and the Open Inference Protocol over HTTP in front of them.

Nothing is loaded with the package: the client, which lives below it, needs the protocol and nothing of the server.
Whoever runs a server imports ``rillet.serving.program`` and ``rillet.serving.live_model`` (torch), ``rillet.serving.app``,
``server`` and ``service`` (the web stack).
"""
