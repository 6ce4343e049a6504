"""The exercises of the course; `checks` has the checks of what a learner writes."""
