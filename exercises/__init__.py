"""The exercises of the course; `graders` checks what a learner writes."""
