"""The `maas` commands: arguments in, one of the rooms called, answers and errors out.

It is for what a person types and reads. It is not for logic: whatever could be asked without a terminal
is in operations, engine or machine.
"""
