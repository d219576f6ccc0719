//! Build events to tty, plain or JSON progress.
