"""The demonstration: its text, its shipped base model, and two adaptations of it."""
