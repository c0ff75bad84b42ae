"""The channel: noise on complex symbols. Needs numpy only, never torch."""
