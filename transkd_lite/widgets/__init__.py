"""Interactive panels of the course: thin ipywidgets over pure functions that tests and static figures use too.

Nothing else in the package imports ipywidgets. Source: this project.
"""
