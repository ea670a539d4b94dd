"""Other trainers: run our schedules there, read theirs, make a task of what they train.

One place per trainer; nothing here is imported until it is asked for, since the trainers are optional.
"""
