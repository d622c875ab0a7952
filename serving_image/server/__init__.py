"""The model server: Open Inference Protocol V2 over HTTP for the models of one directory or URL.

It does not choose what to serve or where: it is given a model, refuses any other bytes, and answers.
"""

__version__ = "0.1.0"
