"""The generated parts of the documents: written by ``make docs``, and compared with the code by a test."""
