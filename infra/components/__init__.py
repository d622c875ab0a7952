"""The parts of a platform, one ComponentResource a file: what belongs together is made and removed together.

It is for grouping resources and passing on their outputs. It is not for reading configuration or the
stack's name, nor for rendering (manifests.py).
"""
