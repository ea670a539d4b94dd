"""One module per paper: its set-ups at small scale, and functions that measure what it claims."""
