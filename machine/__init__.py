"""What stands in for a cloud on one machine: Kubernetes, an image registry, an image builder.

It is for giving the `local` target real parts and for removing every trace of them again.
It is not for deciding what runs on them: it knows no model, no service and no stack.
"""
