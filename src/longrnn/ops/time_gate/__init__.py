"""When, by the clock, units are open."""
