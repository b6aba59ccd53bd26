"""Sans-I/O machines: frames and `now` go in, frames and the next deadline come out."""
