"""What a person moves and looks at: gradients of the loss terms, attention, and the panels over them.

Only `panels` imports ipywidgets; the rest are pure functions that tests and static figures use too.
"""
