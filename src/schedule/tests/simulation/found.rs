//! Scripts that once failed, each with the fault that it found.
