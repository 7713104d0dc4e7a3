"""Other libraries as learners of their own process: run with the Python of an environment that has them, not ours.

Nothing here imports rillet, and only the module of a library imports that library.
"""
