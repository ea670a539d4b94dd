"""The loss between and around trained parameters."""
