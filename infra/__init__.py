"""The Pulumi program: what is provisioned, from one stack file to the objects of a running platform.

It is for declaring resources. It is not for doing anything to a running platform (operations/), nor for
evaluating itself (engine/ or the Pulumi CLI), nor for any input and output but Pulumi's.
"""
