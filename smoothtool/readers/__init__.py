"""The door for what comes from outside: checked readers that name the file, the place in it and what to try.

Nothing here loads torch, runs code from a file, follows a pipe, or reads more than it was told to.
"""
