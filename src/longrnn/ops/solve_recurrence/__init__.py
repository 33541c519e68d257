"""A non-linear recurrence, solved over all steps at once."""
