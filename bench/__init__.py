"""Measurements that anyone can run again; results lie in results/, each with its machine and versions.

It is for numbers that an issue or the documentation names. It is not for tests: speed never fails a build.
"""
