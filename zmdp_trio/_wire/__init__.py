"""Pure codecs: frames to typed commands and back, a module per dialect.  No state, no I/O."""
