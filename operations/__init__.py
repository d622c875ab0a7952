"""What is done to a running platform: publish, deploy, ask, look.

It is for the steps that people take between two reviews of a stack file, and for writing what they decided
into it. It is not for what is provisioned (infra), for evaluating programs (engine), or for this machine's
parts (machine).
"""
