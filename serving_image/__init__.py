"""The shared serving image: one model server for every model, and the schema of a published model.

It is not the model store, nor what is done to one: publishing, listing and pulling are `operations`.
"""
